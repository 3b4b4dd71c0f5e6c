"""The cells of a run: which selector at which k answers a question. Knows nothing of models."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2l.benchmarks.base import Sample
from x2l.records import RecordKey
from x2l.selectors.base import ChunkSelector
from x2l.selectors.fixed import SelectAll, SelectNone
from x2l.selectors.oracle import OracleSelector
from x2l.settings import Settings


@dataclass(frozen=True)
class Cell:
    """A selector at a top_k; for the controls `all` and `none` there is no k and nothing pinned."""

    name: str
    selector: ChunkSelector
    config: str
    top_k: int | str | None
    pinned: tuple[str, ...]

    @property
    def shown(self) -> tuple[str, str, int | str | None, list[str]]:
        """What run.json remembers of it; `key_of` takes it back."""
        return self.name, self.config, self.top_k, list(self.pinned)

    def key(self, run_id: str, sample_id: str) -> RecordKey:
        """The key of this cell's record for a sample."""
        return self.key_of(run_id, sample_id, *self.shown)

    @staticmethod
    def key_of(
        run_id: str,
        sample_id: str,
        name: str,
        config: str,
        top_k: int | str | None,
        pinned: Sequence[str],
    ) -> RecordKey:
        """The key of a record."""
        return run_id, sample_id, name, config, str(top_k), "+".join(pinned)


def cells(selectors: Mapping[str, ChunkSelector], settings: Settings) -> tuple[Cell, ...]:
    """Every (selector, top_k) of a run, each once, in the order given."""
    found: list[Cell] = []
    for name, selector in selectors.items():
        config = _selector_config(selector)
        if isinstance(selector, SelectAll | SelectNone):
            found.append(Cell(name, selector, config, None, ()))
        else:
            ks = dict.fromkeys(settings.top_k)
            found += [Cell(name, selector, config, k, settings.pinned) for k in ks]
    return tuple(found)


def check_truth(samples: Sequence[Sample], asked: Sequence[Cell]) -> None:
    """Checks that the benchmark says where answers lie, if a cell needs to know.

    Raises:
        ValueError: it does not.
    """
    unknown = [sample.id for sample in samples if sample.spans is None]
    for cell in asked:
        if unknown and (cell.top_k == "gt" or isinstance(cell.selector, OracleSelector)):
            field = "top_k=gt" if cell.top_k == "gt" else f"selector={cell.name}"
            raise ValueError(
                f"{field}: the benchmark does not say where the answer to {unknown[0]} lies "
                f"(nor for {len(unknown) - 1} more questions); leave it out here"
            )


def _selector_config(selector: ChunkSelector) -> str:
    """Short hash of a selector's class and settings: its repr, as selectors are dataclasses."""
    text = repr(selector)
    if " at 0x" in text:
        raise TypeError(f"selector {text}: must be a frozen dataclass, so that its settings show")
    return hashlib.sha256(text.encode()).hexdigest()[:8]
