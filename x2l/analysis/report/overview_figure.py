"""One panel a kind of compute: every cell with its interval, and the Pareto front with its cells numbered."""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from x2l.analysis.cell_names import Names
from x2l.analysis.compute_axes import ComputeAxis
from x2l.analysis.curves import CONTROLS, log_ticks
from x2l.analysis.figure_style import COLOURS, MARKERS, RC
from x2l.analysis.points import FULL, Point, pareto

MOST_BARS = 60  # cells of which every interval is drawn; of more, those on the front
MOST_COLOURS = 7  # compressors that colours still tell apart
MOST_LINES = 24  # lines that may still be followed
_SVG: dict[Any, Any] = {
    "svg.hashsalt": "x2l",
    "svg.fonttype": "path",
}  # equal points give equal bytes


@dataclass(frozen=True)
class _Look:
    """Colours of compressors, marks of selectors."""

    colours: Mapping[str, str]
    markers: Mapping[str, str]


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, with what it shows in words."""

    source: str
    alt: str


def overview(group: Sequence[Point], axis: ComputeAxis, called: Names) -> Figure:
    """Accuracy over one kind of compute.

    Args:
        group: cells that may be compared, see `compute_axes.comparable`; at least one.
        axis: of compute.
        called: names of cells.
    """
    scale, unit = axis.scaled(max(axis.value(p) for p in group))
    at = {id(p): axis.value(p) * scale for p in group}
    best = pareto(group, axis.field)
    compressors = sorted({p.compressor for p in group if p.control != FULL})
    selectors = sorted({p.selector for p in group if not p.control})
    coloured = len(compressors) <= MOST_COLOURS
    look = _Look(
        colours={c: COLOURS[i] if coloured else "#666666" for i, c in enumerate(compressors)},
        markers={s: MARKERS[i % len(MARKERS)] for i, s in enumerate(selectors)},
    )
    with matplotlib.rc_context({**RC, **_SVG}):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _front(axes, best, at)
        lines: dict[str, list[Point]] = defaultdict(list)
        for p in group:
            if not p.control:
                lines[called.line(p)].append(p)
        if coloured and len(lines) <= MOST_LINES:
            _lines(axes, lines, at, look)
        every, on_front = len(group) <= MOST_BARS, set(map(id, best))
        for p in group:
            _cell(axes, p, at[id(p)], look, every or id(p) in on_front)
        for number, p in enumerate(best, start=1):
            axes.annotate(
                str(number),
                (at[id(p)], 100 * p.accuracy),
                xytext=(-6, 6),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                fontweight="bold",
            )
        low, high = min(at.values()), max(at.values())
        margin = max(1.06, (high / low) ** 0.04) if low > 0 else 1.06
        if low > 0:
            axes.set_xscale("log")
            axes.set_xlim(low / margin, high * margin)
            axes.set_xticks(log_ticks(low / margin, high * margin))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"{axis.words} ({unit})")
        axes.set_ylabel("accuracy (%)")
        axes.grid(alpha=0.25, linewidth=0.5)
        handles = _legend(group, look if coloured else _Look({}, look.markers), called)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
    return figure


def _legend(group: Sequence[Point], look: _Look, called: Names) -> list[Line2D]:
    """Colours are compressors, marks selectors and controls."""
    found = [Line2D([], [], color="#bbbbbb", lw=4, alpha=0.6, label="Pareto front")]
    for compressor, colour in look.colours.items():
        found.append(Line2D([], [], color=colour, lw=2.5, label=compressor))
    bounds = {p.selector for p in group if p.knows_truth and p.top_k != "gt"}
    for selector, marker in look.markers.items():
        label = f"{selector} (bound)" if selector in bounds else selector
        found.append(Line2D([], [], color="#666666", marker=marker, ms=5, ls="", label=label))
    for control, marker in CONTROLS.items():
        if any(p.control == control for p in group):
            found.append(Line2D([], [], color="#222222", marker=marker, ms=8, ls="", label=control))
    return found


def _front(axes: Axes, best: Sequence[Point], at: Mapping[int, float]) -> None:
    steps = [(at[id(p)], 100 * p.accuracy) for p in best]
    if steps:
        steps.append((10 * steps[-1][0], steps[-1][1]))  # more compute never costs accuracy
        x, y = zip(*steps, strict=True)
        axes.step(
            x, y, where="post", color="#bbbbbb", lw=4, alpha=0.6, zorder=1, label="Pareto front"
        )


def _lines(
    axes: Axes, lines: Mapping[str, Sequence[Point]], at: Mapping[int, float], look: _Look
) -> None:
    for members in lines.values():
        ordered = sorted(members, key=lambda p: at[id(p)])
        style = "--" if all(p.knows_truth for p in ordered) else "-"
        x, y = [at[id(p)] for p in ordered], [100 * p.accuracy for p in ordered]
        axes.plot(x, y, style, color=look.colours[members[0].compressor], lw=1, alpha=0.6, zorder=2)


def _cell(axes: Axes, point: Point, x: float, look: _Look, barred: bool) -> None:
    colour = "#222222" if point.control == FULL else look.colours[point.compressor]
    marker = CONTROLS[point.control] if point.control else look.markers[point.selector]
    value = 100 * point.accuracy
    axes.errorbar(
        x,
        value,
        yerr=[[value - 100 * point.low], [100 * point.high - value]] if barred else None,
        color=colour,
        marker=marker,
        markersize={None: 5, FULL: 12}.get(point.control, 8),
        markeredgecolor="white",
        markeredgewidth=0.6,
        elinewidth=0.7,
        alpha=0.9,
        zorder=4 if point.control == FULL else 3,
    )


def picture(figure: Figure, alt: str, form: str = "svg") -> Picture:
    """A figure as a data URI.

    Args:
        figure: drawn with `overview` or `curves.draw`.
        alt: what it shows.
        form: `svg`, or `png` for a figure of many parts.
    """
    data = io.BytesIO()
    with matplotlib.rc_context({**RC, **_SVG}):
        metadata = {"Date": None} if form == "svg" else {}
        figure.savefig(data, format=form, dpi=120, metadata=metadata)
    kind = "svg+xml" if form == "svg" else form
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}", alt)
