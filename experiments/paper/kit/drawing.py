"""Axes, lines and legends that the figures of all experiments share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.paper.kit.cells import Cell
from experiments.paper.kit.sourced import Sourced
from x2l.analysis.figure_style import COLOURS
from x2l.analysis.points import Point

MARKERS = "os^DvPX"
GREY = "#8a8a8a"  # of what others reported, always hollow
CONTROL = "#444444"
# One look for a selector in every figure.
LOOKS = {
    "oracle": (COLOURS[2], "o", "--"),
    "attention": (COLOURS[0], "s", "-"),
    "random": (COLOURS[1], "^", "-"),
    "embedding": (COLOURS[3], "D", "-"),
    "fewer_frames": (COLOURS[5], "v", "-"),
}
LABELS = {
    "oracle": "oracle chunks (bound)",
    "attention": "attention",
    "random": "random chunks",
    "fewer_frames": "fewer frames",
    "none": "all-high",
    "all": "all-low",
}


def panels(
    columns: int,
    rows: int = 1,
    width: float = 3.3,
    height: float = 3.1,
    below: float = 0.75,
    **shared: bool,
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row.

    Args:
        columns: of panels.
        rows: of panels.
        width: of a panel, inches.
        height: of a panel, inches.
        below: space for the legend, inches.
        shared: sharex, sharey.
    """
    figure = Figure(figsize=(0.4 + width * columns, below + height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    axes = [one for row in grid for one in row]
    for one in axes:
        one.grid(alpha=0.25, lw=0.5)
    return figure, axes


def line(
    axes: Axes,
    found: Sequence[Cell],
    x: Callable[[Point], float],
    label: str,
    look: tuple[str, str, str],
    hollow: bool = False,
) -> None:
    """Accuracy in per cent over something, with 95 % intervals clustered by video.

    Args:
        axes: where.
        found: cells of one line; any order.
        x: what a point stands over.
        label: for the legend.
        look: colour, marker, line style.
        hollow: open markers, for a second line of the same colour.
    """
    if not found:
        return
    rows = sorted((cell.point for cell in found), key=x)
    value = [100 * p.accuracy for p in rows]
    reach = [
        [max(0.0, v - 100 * p.low) for v, p in zip(value, rows, strict=True)],
        [max(0.0, 100 * p.high - v) for v, p in zip(value, rows, strict=True)],
    ]
    colour, marker, style = look
    axes.errorbar(
        [x(p) for p in rows],
        value,
        yerr=reach,
        color=colour,
        marker=marker,
        ls=style,
        ms=5,
        mfc="white" if hollow else colour,
        lw=1.4,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )


def level(axes: Axes, cell: Cell | None, label: str, style: str = "--") -> None:
    """A control as a line across the panel."""
    if cell is not None:
        axes.axhline(100 * cell.point.accuracy, color=CONTROL, ls=style, lw=0.9, label=label)


def sourced(axes: Axes, series: Sourced, marker: str = "o") -> None:
    """What others reported: grey, hollow, dotted; never to be taken for a result of ours."""
    axes.plot(
        [x for x, _ in series.points],
        [y for _, y in series.points],
        color=GREY,
        marker=marker,
        mfc="white",
        mec=GREY,
        ls=":",
        lw=1.1,
        ms=5,
        label=series.label,
    )


def beside(
    x: Callable[[Point], float], place: int, of: int, log: bool = True
) -> Callable[[Point], float]:
    """Moves a line a little aside, so that intervals of lines over the same points can be told apart.

    Args:
        x: where the points stand.
        place: number of the line.
        of: how many lines there are.
        log: whether the axis is logarithmic: 2 % of the value a line, else 0.06.
    """
    off = place - (of - 1) / 2
    return lambda point: x(point) * 1.02**off if log else x(point) + 0.06 * off


def kv_axis(axes: Axes) -> None:
    """KV bytes in per cent, logarithmic."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    wide = high > 6 * low
    ticks = (
        (1, 2, 3, 5, 10, 20, 30, 50, 100) if wide else (3, 4, 5, 6, 8, 10, 15, 20, 25, 30, 40, 50)
    )
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("KV bytes resident (% of full)")


def kv(point: Point) -> float:
    """KV bytes resident while answering, % of full."""
    return 100 * point.kv_share


def accuracy_axis(axes: Sequence[Axes], columns: int) -> None:
    """0 to 100 per cent, named on the left of each row."""
    for number, one in enumerate(axes):
        one.set_ylim(0, 104)
        if number % columns == 0:
            one.set_ylabel("accuracy (%)")


def legend(figure: Figure, axes: Sequence[Axes], columns: int = 3) -> None:
    """One legend below all panels, each label once; what others reported comes last."""
    handles = {
        label: handle
        for one in axes
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(handles, key=lambda label: "Video-XL" in label)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=7.5,
        frameon=False,
    )


def described(figure: Figure, found: Sequence[Cell], more: str = "") -> None:
    """What the figure is of, above it."""
    p = found[0].point
    most = max(cell.point.videos for cell in found)
    questions = max(cell.point.n for cell in found)
    words = [p.benchmark, p.model, f"{questions} questions on {most} videos", more]
    figure.suptitle(" · ".join(word for word in words if word), fontsize=9)
