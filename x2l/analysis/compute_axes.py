"""The kinds of compute that accuracy is shown over, and the Pareto front over each. Pure."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from x2l.analysis.points import Point, pareto
from x2l.analysis.scoring import ALL_TASKS
from x2l.analysis.units import prefix


@dataclass(frozen=True)
class ComputeAxis:
    """One kind of compute.

    Attributes:
        name: in keys of trackers and addresses within the report.
        field: of `Point`.
        unit: `B`, `FLOPs`, `s`, or a share in percent of something.
        words: what it is, for people.
    """

    name: str
    field: str
    unit: str
    words: str

    def value(self, point: Point) -> float:
        """Of one cell, in bytes, FLOPs or seconds, or as a share."""
        return float(getattr(point, self.field))

    def scaled(self, largest: float) -> tuple[float, str]:
        """What to multiply values by so that the largest has one to three digits, and the unit then."""
        if self.unit == "s" or self.unit.startswith("%"):
            return (1.0 if self.unit == "s" else 100.0), self.unit
        return prefix(largest, self.unit)


KV_BYTES = ComputeAxis(
    "kv_bytes", "kv_bytes_stored", "B", "KV bytes stored of what is answered from"
)
KV_ATTENDED = ComputeAxis(
    "kv_attended", "kv_bytes_attended", "B", "KV bytes that attention reads, decoded"
)
FLOPS = ComputeAxis("flops", "flops_total", "FLOPs", "FLOPs per question, pre-fill shared out")
SECONDS = ComputeAxis("seconds", "seconds_total", "s", "seconds per question, pre-fill shared out")
AXES = (KV_BYTES, FLOPS, SECONDS)
KV_SHARE = ComputeAxis("kv_share", "kv_share", "% of uncompressed", KV_BYTES.words)
FLOPS_NEXT = ComputeAxis(
    *("flops_next", "flops_next", "FLOPs", "compute of one more question on a pre-filled video")
)


def comparable(rows: Iterable[Point]) -> list[list[Point]]:
    """The cells over all tasks that have an accuracy, in groups within which they may be compared."""
    groups: dict[tuple[Hashable, ...], list[Point]] = defaultdict(list)
    for row in drawable(rows):
        groups[row.condition.setting].append(row)
    return list(groups.values())


def drawable(rows: Iterable[Point]) -> list[Point]:
    """The cells over all tasks that have an accuracy."""
    return [row for row in rows if row.task == ALL_TASKS and row.questions > 0]


def front(rows: Sequence[Point], axis: ComputeAxis) -> list[Point]:
    """The Pareto front of every group of comparable cells, one after the other, cheapest first."""
    return [point for group in comparable(rows) for point in pareto(group, axis.field)]
