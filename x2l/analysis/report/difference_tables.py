"""Paired differences of a sweep's cells: against full KVs, and against random selection. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from x2l.analysis.cell_names import Names
from x2l.analysis.comparison import FIELDS, CellRecords, Comparison, compare
from x2l.analysis.compute_axes import COMPARABLE
from x2l.analysis.points import FULL, Point
from x2l.analysis.report.cell_tables import cell_name
from x2l.analysis.report.table import Column, Interval, Table, Value, number, percent
from x2l.analysis.statistics import Difference

RANDOM = "random"
Pair = tuple["Cell", "Cell"]


@dataclass(frozen=True)
class Cell:
    """One cell: its answers, what they come to, and the units (questions, groups of tries) that count."""

    records: CellRecords
    point: Point
    units: frozenset[str]


def against_full(cells: Sequence[Cell]) -> list[Pair]:
    """(full KVs, cell) for every other cell of the same questions, model, rules and frames."""
    full = [cell for cell in cells if cell.point.control == FULL]
    pairs = []
    for cell in cells:
        if cell.point.control == FULL:
            continue
        same = [
            f for f in full if _key(f, COMPARABLE) == _key(cell, COMPARABLE) and _share(f, cell)
        ]
        # Full KVs hardly depend on how they were pre-filled; still, the nearest of several is taken.
        near = ("chunk_frames", "context", "positions", "dtype", "seed")
        if same:
            most = max(
                same,
                key=lambda f: sum(_key(f, near)[i] == v for i, v in enumerate(_key(cell, near))),
            )
            pairs.append((most, cell))
    return pairs


def against_random(cells: Sequence[Cell]) -> list[Pair]:
    """(random selection, cell) for every cell that selects as many chunks of the same pre-fill."""
    names = (*(name for name in FIELDS if name != "selector"), "run_id")
    random = {_key(cell, names): cell for cell in cells if cell.point.selector == RANDOM}
    pairs = []
    for cell in cells:
        other = random.get(_key(cell, names))
        chooses = not cell.point.control and cell.point.top_k != 0 and cell.point.selector != RANDOM
        if chooses and other is not None and _share(other, cell):
            pairs.append((other, cell))
    return pairs


def differences_table(caption: str, pairs: Sequence[Pair], called: Names) -> Table | None:
    """Accuracy of the second of each pair minus that of the first; None where there is no pair.

    Args:
        caption: of the table.
        pairs: see `against_full`.
        called: names of cells.
    """
    if not pairs:
        return None
    found = compare([(a.records, b.records) for a, b in pairs])
    left = min(0.0, *(one.headline.low for one in found))
    right = max(0.0, *(one.headline.high for one in found))
    columns = (
        Column("cell", numbers=False),
        Column("against %", title="accuracy of what it is compared with, on the shared questions"),
        Column("cell %", title="its accuracy on the same questions"),
        Column("difference, points", title="with its 95 % interval, paired, clustered by video"),
        Column("interval", numbers=False),
        Column("lost", title="questions that were right there and are wrong here"),
        Column("gained", title="questions that were wrong there and are right here"),
        Column("n"),
        Column("p (Holm)", title="corrected for all rows of this table"),
        Column(
            "KV %",
            title="the cell's bytes resident, of the uncompressed cache's; then those it is compared with",
        ),
    )
    rows = tuple(
        _row(one, b.point, called, (left, right)) for one, (_, b) in zip(found, pairs, strict=True)
    )
    return Table(caption, columns, rows)


def _row(
    one: Comparison, point: Point, called: Names, reach: tuple[float, float]
) -> tuple[Value, ...]:
    d = one.headline
    low, value, high = 100 * d.low, 100 * d.value, 100 * d.high
    a, b = one.headline_accuracies
    told = f"{round(value, 1) + 0.0:+.1f}"
    return (
        cell_name(point, called),
        percent(a.value),
        percent(b.value),
        Value(told, sort=value, note=f"{low:+.1f} to {high:+.1f}"),
        Value(told, sort=value, picture=_interval(d, *reach)),
        number(one.micro.lost, "{:.0f}"),
        number(one.micro.gained, "{:.0f}"),
        number(one.micro.count, "{:.0f}"),
        Value(_p(one.p_holm), sort=one.p_holm),
        number(one.kv_share_b, "{:.1f}", 100, f"against {100 * one.kv_share_a:.1f}"),
    )


def _interval(d: Difference, left: float, right: float) -> Interval:
    width = (right - left) or 1.0
    return Interval(*(100 * (v - left) / width for v in (d.low, d.value, d.high, 0.0)))


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _key(cell: Cell, names: Sequence[str]) -> tuple[object, ...]:
    return tuple(cell.records.fields[name] for name in names)


def _share(a: Cell, b: Cell) -> bool:
    """Whether anything counts on both sides."""
    return bool(a.units & b.units)
