"""Paired differences of a sweep's cells: against full KVs, and against controls. Pure."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from x2l.analysis.cell_names import Names
from x2l.analysis.comparison import CellRecords, Comparison, compare
from x2l.analysis.points import Point
from x2l.analysis.report.cell_tables import cell_name
from x2l.analysis.report.table import Column, Interval, Table, Value, number, percent
from x2l.analysis.statistics import Difference
from x2l.analysis.units import p_value, points
from x2l.runs.condition import FULL, Condition, choice_names

Pair = tuple["CellResult", "CellResult"]


@dataclass(frozen=True)
class CellResult:
    """One cell: its answers, what they come to, and the units (questions, groups of tries) that count."""

    records: CellRecords
    point: Point
    units: frozenset[str]

    @property
    def condition(self) -> Condition:
        """What identifies it."""
        return self.point.condition


def against_full(cells: Sequence[CellResult]) -> list[Pair]:
    """(full KVs, cell) for every other cell of the same questions, model, rules and frames."""
    full = [cell for cell in cells if cell.condition.baseline == FULL]
    pairs = []
    for cell in cells:
        setting = cell.condition.setting
        same = [f for f in full if f.condition.setting == setting and f.units & cell.units]
        if same and cell.condition.baseline != FULL:
            # Full KVs hardly depend on how they were pre-filled; still, the nearest of several is taken.
            prefill = _traits_but(cell, choice_names()).items()
            nearest = max(same, key=lambda f: len(prefill & _traits_but(f, ()).items()))
            pairs.append((nearest, cell))
    return pairs


def against_controls(cells: Sequence[CellResult]) -> list[Pair]:
    """(control, cell) for every cell that re-loads as much of the same pre-fill as a selector without the question."""
    controls: dict[Hashable, list[CellResult]] = defaultdict(list)
    for cell in cells:
        if chooses(cell.condition) and cell.condition.role == "control":
            controls[_as_much(cell)].append(cell)
    return [
        (control, cell)
        for cell in cells
        if chooses(cell.condition) and cell.condition.role != "control"
        for control in controls[_as_much(cell)]
        if control.units & cell.units
    ]


def chooses(condition: Condition) -> bool:
    """Whether chunks are chosen, so that it matters which."""
    return condition.baseline is None and condition.top_k != 0


def differences_table(caption: str, pairs: Sequence[Pair], called: Names) -> Table | None:
    """Accuracy of the second of each pair minus that of the first; None where there is no pair.

    Args:
        caption: of the table.
        pairs: see `against_full`.
        called: names of cells. What each is compared with is named where there are several.
    """
    if not pairs:
        return None
    comparisons = compare([(a.records, b.records) for a, b in pairs])
    left = min(0.0, *(c.headline.low for c in comparisons))
    right = max(0.0, *(c.headline.high for c in comparisons))
    controls = {called.choice(a.condition) for a, _ in pairs}
    columns = (
        Column("cell", numbers=False),
        Column("against %", title="accuracy of what it is compared with, on the shared questions"),
        Column("cell %", title="its accuracy on the same questions"),
        Column("difference, points", title="with its 95 % interval, paired, clustered by video"),
        Column("interval", numbers=False),
        Column("lost", title="questions that were right there and are wrong here"),
        Column("gained", title="questions that were wrong there and are right here"),
        Column("n"),
        Column(
            "p (Holm)",
            title="corrected for all tested rows of this table; one and the same answers are not",
        ),
        Column(
            "KV %",
            title="the cell's bytes stored, of the uncompressed cache's; then those it is compared with",
        ),
    )
    rows = []
    for comparison, (against, cell) in zip(comparisons, pairs, strict=True):
        control = called.choice(against.condition) if len(controls) > 1 else ""
        rows.append(_row(comparison, cell_name(cell.point, called), control, (left, right)))
    return Table(caption, columns, tuple(rows))


def _row(
    comparison: Comparison, name: Value, against: str, reach: tuple[float, float]
) -> tuple[Value, ...]:
    d = comparison.headline
    low, value, high = 100 * d.low, 100 * d.value, 100 * d.high
    a, b = comparison.headline_accuracies
    p = comparison.p_holm
    difference = "identical" if d.identical else points(d.value)
    return (
        name,
        number(a.value, "{:.1f}", 100, against),
        percent(b.value),
        Value(difference, sort=value, note=f"{low:+.1f} to {high:+.1f}"),
        Value(difference, sort=value, picture=_interval(d, *reach)),
        number(comparison.micro.lost, "{:.0f}"),
        number(comparison.micro.gained, "{:.0f}"),
        number(comparison.micro.count, "{:.0f}"),
        Value(p_value(p), sort=1.0 if math.isnan(p) else p),
        number(comparison.kv_share_b, "{:.1f}", 100, f"against {100 * comparison.kv_share_a:.1f}"),
    )


def _interval(d: Difference, left: float, right: float) -> Interval:
    width = (right - left) or 1.0
    return Interval(*(100 * (v - left) / width for v in (d.low, d.value, d.high, 0.0)))


def _traits_but(cell: CellResult, names: Sequence[str]) -> dict[str, Hashable]:
    return {name: value for name, value in cell.condition.traits.items() if name not in names}


def _as_much(cell: CellResult) -> Hashable:
    """What cells share that re-load as much of one pre-fill."""
    return tuple(_traits_but(cell, ("selector", "selector_config")).items())
