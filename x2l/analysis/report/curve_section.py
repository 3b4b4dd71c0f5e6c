"""Points -> the report's charts: accuracy over each kind of compute, for each group of comparable cells. Pure."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from x2l.analysis.cell_names import Names, names
from x2l.analysis.compute_axes import AXES, KV_BYTES, ComputeAxis, comparable
from x2l.analysis.curves import draw, panel_count
from x2l.analysis.figure_style import RC
from x2l.analysis.points import Point, pareto
from x2l.analysis.report.chart import Charts, chart_values, group_values
from x2l.analysis.report.table import Column, Table, number, percent, words
from x2l.analysis.sweep_tables import sweep_title
from x2l.runs.condition import Condition

OPEN_PANELS = 4  # as many are shown at once
MOST_GROUPS = 6  # of cells that cannot be compared with each other, e.g. several models


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, with what it shows in words."""

    source: str
    alt: str


@dataclass(frozen=True)
class Curve:
    """Accuracy over one kind of compute, for one group of comparable cells.

    Attributes:
        title: of the group, where there are several.
        chart: name of the chart of all cells, see `Charts`.
        alt: what the chart shows, in words.
        key: what its lines and marks are, in words.
        front: the cells numbered in it.
        panels: the same in panels of lines; None where there is one panel alone.
        open: whether the panels are shown at once.
    """

    title: str
    chart: str
    alt: str
    key: str
    front: Table
    panels: Picture | None
    open: bool


@dataclass(frozen=True)
class CurvesOver:
    """One kind of compute: its name in addresses, a heading, and a curve for each group of comparable cells."""

    name: str
    heading: str
    curves: tuple[Curve, ...]


def curves_over_compute(rows: Sequence[Point], called: Names) -> tuple[CurvesOver, ...]:
    """Every kind of compute; nothing where no cell has an accuracy.

    Args:
        rows: cells.
        called: their names.
    """
    groups = _groups(rows)
    alone = len(groups) == 1
    return tuple(
        CurvesOver(
            axis.name,
            f"Accuracy over {axis.words}",
            tuple(
                _curve(group, number, axis, called if alone else None)
                for number, group in enumerate(groups)
            ),
        )
        for axis in AXES
        if groups
    )


def charts(rows: Sequence[Point], called: Names, commands: Mapping[Condition, str]) -> Charts:
    """The values that the charts of `curves_over_compute` are drawn from.

    Args:
        rows: cells.
        called: their names.
        commands: cell -> the command that asked for it.
    """
    groups = _groups(rows)
    alone = len(groups) == 1
    return Charts(
        tuple(
            group_values(g, called if alone else names(p.condition for p in g), commands)
            for g in groups
        ),
        {
            _chart_name(axis, number): chart_values(group, number, axis)
            for axis in AXES
            for number, group in enumerate(groups)
        },
    )


def groups_left_out(rows: Sequence[Point]) -> int:
    """How many groups of comparable cells are not drawn."""
    return max(0, len(comparable(rows)) - MOST_GROUPS)


def _groups(rows: Sequence[Point]) -> list[list[Point]]:
    return comparable(rows)[:MOST_GROUPS]


def _chart_name(axis: ComputeAxis, number: int) -> str:
    return f"{axis.name}-{number}"


def _curve(group: Sequence[Point], number: int, axis: ComputeAxis, called: Names | None) -> Curve:
    """One group's; without names it is one of several, and has a title and names of its own."""
    title = "" if called else sweep_title(group)
    called = called or names(p.condition for p in group)
    best = pareto(group, axis.field)
    accuracies = [100 * p.accuracy for p in group]
    first = [f"{called.cell(p.condition)} {100 * p.accuracy:.1f} %" for p in best[:8]]
    alt = (
        f"Accuracy over {axis.words}, {len(group)} cells between {min(accuracies):.1f} and "
        f"{max(accuracies):.1f} %. On the Pareto front, cheapest first: {', '.join(first)}."
    )
    panels, count = None, panel_count(group)
    if count > 1:
        drawn = draw(group, sweep_title(group), over=(axis,))
        panels = _picture(drawn, f"{alt} In {count} panels of lines.")
    return Curve(
        title,
        _chart_name(axis, number),
        alt,
        _key(group),
        _front_table(best, axis, max(axis.value(p) for p in group), called),
        panels,
        open=axis is KV_BYTES and count <= OPEN_PANELS,
    )


def _key(group: Sequence[Point]) -> str:
    """What of a chart no switch of its legend explains."""
    guessing = sorted({f"{100 * p.chance:.0f}" for p in group if p.chance >= 0})
    parts = [
        "upright bars: 95 % intervals, clustered by video",
        "dashed: told where the answer lies" * any(p.condition.is_bound for p in group),
        f"dotted: guessing, {', '.join(guessing)} %" if guessing else "",
        "hollow: out of memory for some questions" * any(p.out_of_memory for p in group),
        "numbers: the Pareto front's cells, as in its table",
    ]
    return "; ".join(filter(None, parts))


def _front_table(best: Sequence[Point], axis: ComputeAxis, largest: float, called: Names) -> Table:
    scale, unit = axis.scaled(largest)
    return Table(
        f"Pareto front over {axis.words}",
        (Column("no."), Column("cell", numbers=False), Column("accuracy %"), Column(unit)),
        tuple(
            (
                number(place, "{:.0f}"),
                words(called.cell(p.condition)),
                percent(p.accuracy, p.accuracy_low, p.accuracy_high),
                number(axis.value(p), scale=scale),
            )
            for place, p in enumerate(best, start=1)
        ),
    )


def _picture(figure: Figure, alt: str) -> Picture:
    """A figure as a data URI; equal points give equal bytes."""
    data = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(data, format="png", dpi=120)
    return Picture(f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}", alt)
