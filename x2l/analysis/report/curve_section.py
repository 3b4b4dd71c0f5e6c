"""Points -> the report's pictures: accuracy over each kind of compute, for each group of comparable cells. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from x2l.analysis.cell_names import Names, names
from x2l.analysis.compute_axes import AXES, KV_BYTES, ComputeAxis, comparable
from x2l.analysis.curves import draw, panel_count
from x2l.analysis.points import Point, pareto
from x2l.analysis.report.overview_figure import Picture, overview, picture
from x2l.analysis.report.table import Column, Table, number, percent, words
from x2l.analysis.sweep_tables import sweep_title

OPEN_PANELS = 4  # as many are shown at once
MOST_GROUPS = 6  # of cells that cannot be compared with each other, e.g. several models


@dataclass(frozen=True)
class Curve:
    """Accuracy over one kind of compute, for one group of comparable cells.

    Attributes:
        title: of the figure.
        figure: all cells in one panel.
        front: the cells numbered in it.
        panels: the same in panels of lines; None where there is one panel alone.
        open: whether the panels are shown at once.
    """

    title: str
    figure: Picture
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
    groups = comparable(rows)[:MOST_GROUPS]
    alone = len(groups) == 1
    return tuple(
        CurvesOver(
            axis.name,
            f"Accuracy over {axis.words}",
            tuple(_curve(group, axis, called if alone else None) for group in groups),
        )
        for axis in AXES
        if groups
    )


def groups_left_out(rows: Sequence[Point]) -> int:
    """How many groups of comparable cells are not drawn."""
    return max(0, len(comparable(rows)) - MOST_GROUPS)


def _curve(group: Sequence[Point], axis: ComputeAxis, called: Names | None) -> Curve:
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
        panels = picture(drawn, f"{alt} In {count} panels of lines.", "png")
    return Curve(
        title,
        picture(overview(group, axis, called), alt),
        _front_table(best, axis, max(axis.value(p) for p in group), called),
        panels,
        open=axis is KV_BYTES and count <= OPEN_PANELS,
    )


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
