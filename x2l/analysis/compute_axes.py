"""The kinds of compute that accuracy is shown over, and the Pareto front over each. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from x2l.analysis.points import Point, pareto
from x2l.analysis.scoring import ALL_TASKS

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
# Cells that answer the same questions with the same model, rules and frames; only those compete.
COMPARABLE = ("model", "benchmark", "protocol", "frames")


@dataclass(frozen=True)
class ComputeAxis:
    """One kind of compute.

    Attributes:
        name: in keys of trackers and addresses within the report.
        field: of `Point`.
        unit: `B`, `FLOPs` or `s`.
        words: what it is, for people.
    """

    name: str
    field: str
    unit: str
    words: str

    def value(self, point: Point) -> float:
        """Of one cell, in bytes, FLOPs or seconds."""
        return float(getattr(point, self.field))

    def scaled(self, largest: float) -> tuple[float, str]:
        """What to multiply values by so that the largest has one to three digits, and the unit then."""
        if self.unit == "s":
            return 1.0, "s"
        for factor, prefix in _PREFIXES:
            if largest >= factor:
                return 1 / factor, f"{prefix}{self.unit}"
        return 1.0, self.unit


KV_BYTES = ComputeAxis("kv_bytes", "kv_bytes_resident", "B", "KV bytes resident while answering")
FLOPS = ComputeAxis("flops", "flops", "FLOPs", "FLOPs per question, pre-fill shared out")
SECONDS = ComputeAxis("seconds", "seconds", "s", "seconds per question, pre-fill shared out")
AXES = (KV_BYTES, FLOPS, SECONDS)


def comparable(rows: Iterable[Point]) -> list[list[Point]]:
    """The cells over all tasks that have an accuracy, in groups within which they may be compared.

    A cell that ran out of memory for some videos stands with those that have most nearly as many frames.
    """
    shown = [row for row in rows if row.task == ALL_TASKS and row.n > 0]
    groups: dict[tuple[object, ...], list[Point]] = defaultdict(list)
    for row in shown:
        if not row.out_of_memory:
            groups[tuple(getattr(row, name) for name in COMPARABLE)].append(row)
    for row in shown:
        if row.out_of_memory:
            own = (row.model, row.benchmark, row.protocol)
            near = [key for key in groups if key[:3] == own]
            frames = {key: abs(groups[key][0].frames - row.frames) for key in near}
            groups[min(frames, key=lambda key: frames[key], default=(*own, row.frames))].append(row)
    return list(groups.values())


def front(rows: Sequence[Point], axis: ComputeAxis) -> list[Point]:
    """The Pareto front of every group of comparable cells, one after the other, cheapest first."""
    return [point for group in comparable(rows) for point in pareto(group, axis.field)]
