"""Records -> cells, and how they are found: the one door between records and the figures of the experiments."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from string import Formatter
from typing import Any

from experiments.docs.methods_table import compressor, kind
from x2l.analysis.points import Point, points
from x2l.engine.stages import STAGES
from x2l.engine.top_k import order_key
from x2l.runs.condition import FULL, Condition, LevelSpec
from x2l.runs.records import Record

ONE_OF_EACH = ("model", "benchmark", "protocol")  # that no figure here sets side by side
LABELS = {"oracle": "oracle chunks", "random": "random chunks"}


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell: its point, and the answers behind it.

    `cell["coarsest"]` is a trait: one of `TRAITS`, or a field of the condition. Templates name them in braces.
    """

    point: Point
    records: tuple[Record, ...]

    def __getitem__(self, trait: str) -> Any:
        """A trait by name."""
        return TRAITS[trait](self) if trait in TRAITS else getattr(self.condition, trait)

    @property
    def condition(self) -> Condition:
        """What identifies it."""
        return self.point.condition

    @property
    def samples(self) -> frozenset[str]:
        """Ids of the questions that it answered."""
        return frozenset(record.question.sample_id for record in self.records)

    def seconds(self, stages: Iterable[str] = STAGES) -> list[float]:
        """Seconds of some stages together, of every question."""
        return [sum(record.seconds[stage] for stage in stages) for record in self.records]


def percent(share: float, digits: int = 1) -> str:
    """A share as per cent; `-` where nothing is known."""
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f}"


def _label(cell: Cell) -> str:
    words = LABELS.get(cell["system"], cell["system"].replace("_", " "))
    return f"{words} (bound)" if cell.condition.is_bound else words


def _interval(cell: Cell) -> str:
    p = cell.point
    return f"{cell['accuracy']} ({percent(p.accuracy_low)} to {percent(p.accuracy_high)})"


def _frames_reloaded(cell: Cell) -> int | None:
    k = cell.condition.top_k
    return k * cell.condition.chunk_frames if isinstance(k, int) else None


def _alone(cell: Cell) -> LevelSpec | None:
    levels = {level.name: level for level in cell.condition.levels}
    return levels.get(cell.condition.single_level or "")


TRAITS: Mapping[str, Callable[[Cell], Any]] = {
    # `full`, `all-low`, `all-high`; or the control or selector that chooses; and how legends and tables say it
    "system": lambda cell: cell.condition.baseline or cell.condition.chosen_by,
    "label": _label,
    "is_compressed": lambda c: c.condition.baseline != FULL and c.condition.control is None,
    # Ratios of the finest and the coarsest level, L-KVs and H-KVs; the levels between, e.g. `mid 8x`
    "finest": lambda cell: cell.condition.levels[0].ratio,
    "coarsest": lambda cell: cell.condition.levels[-1].ratio,
    # What becomes of the chunks that are not re-loaded
    "others": lambda cell: "compact" if cell.condition.levels[-1].ratio else "dropped",
    "between": lambda c: ", ".join(level.ratio_label for level in c.condition.levels[1:-1]),
    # Of the level that all chunks have, where they are alike: its ratio, its compressor, both
    "alike_at": lambda cell: level.ratio if (level := _alone(cell)) else None,
    "alike_by": lambda cell: level.compressor if (level := _alone(cell)) else None,
    "alike": lambda cell: (cell["alike_at"], cell["alike_by"]),
    # The coarsest level's compressor: pruning, merging or pooling; and the form in which its KVs are stored
    "method": lambda cell: cell.condition.levels[-1].compressor,
    "codec": lambda cell: cell.condition.levels[-1].codec,
    "kind": lambda cell: kind(compressor(cell["method"].split(".")[0])),
    "stored": lambda cell: "as they are" if cell["codec"] == "none" else cell["codec"],
    "pinned": lambda cell: "+".join(cell.condition.pinned),
    # Which of needle's two sorts of video; of other sets, that of plain ones
    "scene": lambda c: (
        "crowded" if c.records[0].question.tags.get("kind") == "crowded" else "plain"
    ),
    "frames": lambda cell: cell.point.frames_sampled,
    "frames_reloaded": _frames_reloaded,
    # What was measured, in words; recall, hits and k only where something is chosen
    "sample": lambda cell: f"{cell.point.questions} questions, {cell.point.videos} videos",
    "accuracy": lambda cell: percent(cell.point.accuracy),
    "interval": _interval,
    "kv": lambda cell: percent(cell.point.kv_share),
    # KV bytes and what the selector keeps on the device, as a share of the uncompressed cache
    "bytes": lambda c: c.point.kv_share + c.point.selector_bytes_resident / c.point.kv_bytes_full,
    # What the selector reads from the host for a question and keeps on the device, as a share of it
    "choosing_bytes": lambda c: (
        (c.point.kv_bytes_streamed + c.point.selector_bytes_resident) / c.point.kv_bytes_full
    ),
    "k": lambda cell: "-" if cell.condition.baseline else str(cell.condition.top_k),
    "recall": lambda c: "-" if c.condition.baseline else percent(c.point.recall, 0),
    "hit": lambda cell: 0.0 if cell.condition.baseline else 100 * cell.point.hit,
    # GFLOPs of the decoder's pre-fill of a video
    "prefill": lambda cell: 1e-9 * fmean(record.flops["prefill"] for record in cell.records),
}


class Cells(tuple[Cell, ...]):
    """Some cells, in the order of `cells_of`."""

    def where(self, **traits: Any) -> Cells:
        """The cells with these traits.

        Args:
            traits: name -> a value; a tuple, for any of its values; or a function of the values that the cells left by
                the traits before have, sorted, which returns one or a tuple (`min`, `max`, `all_but("own")`).
        """
        cells = self
        for name, wanted in traits.items():
            if callable(wanted):
                wanted = wanted(values) if (values := cells.values(name)) else ()
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            cells = Cells(cell for cell in cells if cell[name] in wanted)
        return cells

    def only(self, **traits: Any) -> Cell | None:
        """The cell with these traits, None if there is none (a set that does not know where answers lie has no oracle).

        Raises:
            ValueError: there are several.
        """
        cells = self.where(**traits)
        if len(cells) > 1:
            words = ", ".join(f"{name}={value}" for name, value in traits.items())
            raise ValueError(
                f"records: {len(cells)} cells with {words}; the folder holds runs of other settings, too"
            )
        return cells[0] if cells else None

    def values(self, trait: str) -> list[Any]:
        """What the cells have of a trait, sorted; None first."""
        values = {cell[trait] for cell in self}
        return sorted(
            values, key=lambda v: order_key(v) if trait == "top_k" else (v is not None, v)
        )

    def say(self, template: str) -> str:
        """A template filled in with all values of the traits in its braces: `k = {k}` becomes `k = 1, 2, 4`."""
        names = [name for _, name, _, _ in Formatter().parse(template) if name]
        values = {name: (self.where(baseline=None) or self).values(name) for name in names}
        words = {
            n: [v if isinstance(v, str) else f"{v:g}" for v in values[n] if v is not None]
            for n in names
        }
        return template.format_map({n: ", ".join(filter(None, words[n])) for n in names})


def all_but(*unwanted: Any) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """For `where`: any value but these."""
    return lambda values: tuple(value for value in values if value not in unwanted)


def cells_of(records: Iterable[Record]) -> Cells:
    """The cells of an experiment, by compressor, ratios, system and k.

    Raises:
        ValueError: no record, of of several models or benchmarks.
    """
    groups: dict[Condition, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.condition].append(record)
    if not groups:
        raise ValueError("records: there are none; run the experiment first")
    cells = Cells(Cell(points(group)[0], tuple(group)) for group in groups.values())
    for name in ONE_OF_EACH:
        if len(values := cells.values(name)) > 1:
            raise ValueError(
                f"records: of several values of {name} ({', '.join(values)}); give each a folder of its own "
                "(hydra.sweep.dir=)"
            )
    return Cells(sorted(cells, key=_order))


def check_one_run(cells: Iterable[Cell]) -> None:
    """Checks that no cell is there twice, by runs that asked other questions: they would stand in a figure as two.

    Raises:
        ValueError: one is.
    """
    first: dict[tuple[Condition, Any], Cell] = {}
    for cell in cells:
        key = dataclasses.replace(cell.condition, run_id=""), cell["scene"]
        other = first.setdefault(key, cell)
        if other.samples != cell.samples:
            raise ValueError(two_sizes(other, cell))


def two_sizes(one: Cell, other: Cell) -> str:
    """What is wrong with two runs of one cell that answered other questions; the end of a run's folder names it."""
    runs = " and ".join(
        f"*-{c.condition.run_id[:8]} ({c.point.videos} videos, {c.point.questions} questions)"
        for c in (one, other)
    )
    return (
        f"records: {one.condition.compressor}, {one['system']}: the runs {runs} differ in size, not in what is "
        "compared; move one of the folders away, and give a trial its own (hydra.sweep.dir=)"
    )


def _order(cell: Cell) -> tuple[Any, ...]:
    c = cell.condition
    ratios = [level.ratio or math.inf for level in c.levels]
    return c.compressor, ratios, c.chosen_by, order_key(c.top_k), c.run_id
