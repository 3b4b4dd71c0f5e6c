"""The cells of a run: which selector at which k answers a question. Knows nothing of models."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2l.benchmarks.base import Sample
from x2l.engine.top_k import GT, TASK
from x2l.evaluation.settings import Settings
from x2l.runs.records import RecordKey
from x2l.selectors.base import ChunkSelector
from x2l.selectors.controls import MatchedRandomSelector, SelectAll, SelectNone
from x2l.selectors.from_file import FileSelector, video_key
from x2l.selectors.oracle import HitRateSelector, OracleSelector

FEWER_FRAMES = "fewer_frames"


@dataclass(frozen=True)
class Cell:
    """A selector at a top_k; for the controls `all` and `none` there is no k and nothing pinned.

    Attributes:
        name: of the selector, as records and figures give it.
        selector: the selector.
        config: short hash of its settings.
        top_k: chunks re-loaded; see `engine/top_k.py` for the words.
        pinned: chunks always re-loaded.
        like: another cell whose re-loaded bytes are matched, question by question; top_k is then only its name.
    """

    name: str
    selector: ChunkSelector
    config: str
    top_k: int | str | None
    pinned: tuple[str, ...]
    like: "Cell | None" = None

    @property
    def words(self) -> str:
        """For messages."""
        return self.name if self.top_k is None else f"{self.name} k={self.top_k}"

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
    """Every (selector, top_k) of a run, each once, in the order given.

    The control `fewer_frames` has one cell a top_k, whatever the selectors: only the number of re-loaded chunks counts.

    Raises:
        ValueError: a selector is to be matched to one that the run does not have.
    """
    if settings.fewer_frames:
        selectors = {FEWER_FRAMES: SelectNone()}
    found: dict[str, list[Cell]] = {}
    for name, selector in selectors.items():
        config, ks = _selector_config(selector), dict.fromkeys(settings.top_k)
        if isinstance(selector, SelectAll | SelectNone) and not settings.fewer_frames:
            found[name] = [Cell(name, selector, config, None, ())]
        elif not isinstance(selector, MatchedRandomSelector):
            found[name] = [Cell(name, selector, config, k, settings.pinned) for k in ks]
        else:
            found[name] = []  # keeps its place in the order
    for name, selector in selectors.items():
        if isinstance(selector, MatchedRandomSelector):
            if settings.between:
                raise ValueError(
                    f"selector.{name}: matches the bytes of two levels only; with levels "
                    f"{', '.join(settings.levels)} use selector=random, whose ladders and budgets spend the same"
                )
            if not (others := found.get(selector.to)):
                raise ValueError(
                    f"selector.{name}.to={selector.to}: must be another selector of the run, with a choice of its own; "
                    f"there are {', '.join(n for n in found if found[n])}; add it to selector=[...]"
                )
            found[name] = [_matched(name, selector, other) for other in others]
    return tuple(cell for group in found.values() for cell in group)


def check_samples(samples: Sequence[Sample], asked: Sequence[Cell], settings: Settings) -> None:
    """Checks that every cell can answer every sample.

    Raises:
        ValueError: a cell needs to know where the answer lies and the benchmark does not say; a task has no top_k; or
            a file of chosen chunks lacks a question or is for more chunks than videos have.
    """
    unknown = [sample.id for sample in samples if sample.spans is None]
    for cell in asked:
        told = isinstance(cell.selector, OracleSelector | HitRateSelector)
        if unknown and (cell.top_k == GT or told):
            field = "top_k=gt" if cell.top_k == GT else f"selector={cell.name}"
            raise ValueError(
                f"{field}: the benchmark does not say where the answer to {unknown[0]} lies "
                f"(nor for {len(unknown) - 1} more questions); leave it out here"
            )
        if isinstance(cell.selector, FileSelector):
            _check_file(cell.selector, samples, settings.most_chunks)
    tasks = {sample.task for sample in samples} - set(settings.top_k_by_task)
    if TASK in settings.top_k and tasks:
        raise ValueError(
            f"selection.top_k_by_task={dict(settings.top_k_by_task)}: has no top_k for {', '.join(sorted(tasks))}; "
            "add them, or choose benchmark.tasks"
        )


def _check_file(selector: FileSelector, samples: Sequence[Sample], most: int | None) -> None:
    missing = [s for s in samples if not selector.knows(s.video, s.question)]
    if missing:
        raise ValueError(
            f"selector.file.path={selector.path}: has no entry {video_key(missing[0].video, missing[0].question)!r} "
            f"(nor for {len(missing) - 1} more questions); make them, or set selector.file.missing=none to re-load "
            "nothing there"
        )
    for s in samples:
        least = selector.least_chunks(s.video, s.question)
        if most is not None and least > most:
            raise ValueError(
                f"selector.file.path={selector.path}: entry {video_key(s.video, s.question)!r} is for {least} chunks "
                f"or more, but videos have {most} at most; video.frames, video.fps, prefill.chunk_frames must be those "
                "of the file"
            )


def _matched(name: str, selector: MatchedRandomSelector, other: Cell) -> Cell:
    """The cell that spends another one's bytes; what that one is belongs to its own settings."""
    config = _short(f"{selector!r} {other.config} {other.pinned}")
    return Cell(name, selector, config, other.top_k, (), like=other)


def _selector_config(selector: ChunkSelector) -> str:
    """Short hash of a selector's class and settings: its repr, as selectors are dataclasses."""
    text = repr(selector)
    if " at 0x" in text:
        raise TypeError(f"selector {text}: must be a frozen dataclass, so that its settings show")
    return _short(text)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
