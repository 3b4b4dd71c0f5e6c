"""What the pictures of all commands and experiments are put together from: panels, marks with intervals, the front."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from x2l.analysis.figure_style import FRONT, INK, SOFT, Style
from x2l.analysis.points import Point


def panels(
    rows: int, columns: int, size: tuple[float, float], **shared: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure and its axes, row by row.

    Args:
        rows: of panels.
        columns: of panels.
        size: of the figure, inches.
        shared: sharex, sharey.
    """
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in grid.flat:
        axes.grid(alpha=0.25, linewidth=0.5)
    return figure, [list(row) for row in grid]


def mark(
    axes: Axes,
    x: float,
    point: Point,
    style: Style,
    size: float = 4.5,
    interval: bool = True,
    **extra: Any,
) -> None:
    """One cell: its accuracy in percent, with the 95 % interval.

    Hollow where memory ran out for some questions: its accuracy is over fewer than that of the others.

    Args:
        axes: where.
        x: where on the axis of compute.
        point: the cell.
        style: its colour and marker.
        size: of the marker, points.
        interval: whether the interval is drawn.
        extra: of matplotlib's errorbar.
    """
    value, hollow = 100 * point.accuracy, point.out_of_memory > 0
    low, high = 100 * point.accuracy_low, 100 * point.accuracy_high
    usual: dict[str, Any] = dict(
        yerr=[[max(0.0, value - low)], [max(0.0, high - value)]] if interval else None,
        color=style.colour,
        marker=style.marker,
        markersize=size,
        markerfacecolor="white" if hollow else style.colour,
        markeredgecolor=style.colour if hollow else "white",
        markeredgewidth=1.2 if hollow else 0.6,
        elinewidth=0.9,
        capsize=2,
        zorder=4,
    )
    axes.errorbar(x, value, **{**usual, **extra})


def line(axes: Axes, x: Sequence[float], row: Sequence[Point], style: Style, **extra: Any) -> None:
    """The line that joins some cells; see `mark` for the cells themselves.

    Args:
        axes: where.
        x: where on the axis of compute, one a cell.
        row: the cells, in the order in which they are joined.
        style: colour and line.
        extra: of matplotlib's plot.
    """
    usual: dict[str, Any] = dict(color=style.colour, linestyle=style.line, linewidth=1.4, zorder=3)
    axes.plot(x, [100 * point.accuracy for point in row], **{**usual, **extra})


def front_steps(axes: Axes, x: Sequence[float], front: Sequence[Point]) -> None:
    """A Pareto front as a step line: more compute never costs accuracy.

    Args:
        axes: where.
        x: where on the axis of compute, one a cell.
        front: its cells, cheapest first.
    """
    if front:
        accuracies = [100 * point.accuracy for point in front]
        steps = [*x, 10 * x[-1]], [*accuracies, accuracies[-1]]
        axes.step(*steps, where="post", solid_capstyle="butt", zorder=1, **_FRONT)


_FRONT: dict[str, Any] = {"color": FRONT, "linewidth": 4, "alpha": 0.6}


def front_handle(label: str) -> Line2D:
    """Of the legend."""
    return Line2D([], [], label=label, **_FRONT)


def handle(label: str, style: Style, size: float = 6) -> Line2D:
    """Of the legend."""
    look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
    return Line2D([], [], markersize=size, label=label, **look)


def interval_handle() -> Line2D:
    """Of the legend: what `mark` draws above and below."""
    look: dict[str, Any] = {"marker": "|", "markersize": 9, "color": SOFT, "linestyle": ""}
    return Line2D([], [], label="bar: 95 % interval, clustered by video", **look)


def hollow_handle() -> Line2D:
    """Of the legend: what `mark` draws where memory ran out."""
    look: dict[str, Any] = {"mfc": "white", "mec": SOFT, "mew": 1.2}
    label = "hollow: out of memory for some questions"
    return Line2D([], [], linestyle="", marker="o", label=label, **look)


def level_line(axes: Axes, accuracy: float, line: Any = "--", **extra: Any) -> None:
    """A share of right answers across the panel, in percent."""
    usual: dict[str, Any] = {"color": INK, "linestyle": line, "linewidth": 1.0, "zorder": 2}
    axes.axhline(100 * accuracy, **{**usual, **extra})


def log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis of compute with a few round numbers."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers on a logarithmic axis; evenly spaced ones where it is short."""
    whole = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(whole) > 6:
        return [10.0**decade for decade in whole[:: math.ceil(len(whole) / 6)]]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [value for value in ticks if low <= value <= high]
        if 3 <= len(ticks) <= 6:
            return ticks
    even = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in even if low <= value <= high]
