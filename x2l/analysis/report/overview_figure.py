"""One panel a kind of compute: every cell with its interval, and the Pareto front with its cells numbered."""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from x2l.analysis import plotting
from x2l.analysis.cell_names import Names
from x2l.analysis.compute_axes import ComputeAxis
from x2l.analysis.figure_style import (
    RC,
    SOFT,
    Style,
    compressor_styles,
    selector_styles,
    style_of_baseline,
)
from x2l.analysis.points import Point, pareto
from x2l.runs.condition import FULL, Condition

MOST_BARS = 60  # cells of which every interval is drawn; of more, those on the front
MOST_LINES = 24  # lines that may still be followed
_SVG: dict[Any, Any] = {
    "svg.hashsalt": "x2l",
    "svg.fonttype": "path",
}  # equal points give equal bytes


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, with what it shows in words."""

    source: str
    alt: str


@dataclass(frozen=True)
class _Looks:
    """Colours are compressors (none where there are more than colours), marks selectors."""

    colours: Mapping[str, str]
    selectors: Mapping[str, Style]

    def of(self, condition: Condition) -> Style:
        """Of a cell's mark."""
        if condition.baseline == FULL:
            return style_of_baseline(condition)
        colour = self.colours.get(condition.compressor, SOFT)
        if condition.baseline:
            return replace(style_of_baseline(condition), colour=colour)
        return replace(self.selectors[condition.chosen_by], colour=colour)


def _looks(group: Sequence[Point]) -> _Looks:
    conditions = [p.condition for p in group]
    styles = compressor_styles({c.compressor for c in conditions if c.baseline != FULL})
    colours = {name: styles[name].colour for name in sorted(styles)}
    told_apart = len(set(colours.values())) == len(colours)
    choosing = [c for c in conditions if not c.baseline]
    methods = {c.chosen_by for c in choosing if not c.is_bound}
    names = sorted({c.chosen_by for c in choosing})
    roles = selector_styles({name: "method" if name in methods else "bound" for name in names})
    return _Looks(colours if told_apart else {}, roles)


def overview(group: Sequence[Point], axis: ComputeAxis, called: Names) -> Figure:
    """Accuracy over one kind of compute.

    Args:
        group: cells that may be compared, see `compute_axes.comparable`; at least one.
        axis: of compute.
        called: names of cells.
    """
    scale, unit = axis.scaled(max(axis.value(p) for p in group))
    at = {id(p): axis.value(p) * scale for p in group}
    best, looks = pareto(group, axis.field), _looks(group)
    with matplotlib.rc_context({**RC, **_SVG}):
        figure, ((axes,),) = plotting.panels(1, 1, (7.6, 4.6))
        plotting.front_steps(axes, [at[id(p)] for p in best], best)
        lines: dict[str, list[Point]] = defaultdict(list)
        for p in group:
            if not p.condition.baseline:
                lines[called.line(p.condition)].append(p)
        if looks.colours and len(lines) <= MOST_LINES:
            for row in lines.values():
                is_bound = all(p.condition.is_bound for p in row)
                style = replace(looks.of(row[0].condition), line="--" if is_bound else "-")
                plotting.line(
                    axes, [at[id(p)] for p in row], row, style, linewidth=1, alpha=0.6, zorder=2
                )
        every, on_front = len(group) <= MOST_BARS, set(map(id, best))
        for p in group:
            size = 12 if p.condition.baseline == FULL else 8 if p.condition.baseline else 5
            interval, style = every or id(p) in on_front, looks.of(p.condition)
            plotting.mark(axes, at[id(p)], p, style, size, interval, elinewidth=0.7, alpha=0.9)
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
        if low > 0:
            margin = max(1.06, (high / low) ** 0.04)
            plotting.log_axis(axes, low / margin, high * margin)
        axes.set_xlabel(f"{axis.words} ({unit})")
        axes.set_ylabel("accuracy (%)")
        handles = _legend(group, looks)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
    return figure


def _legend(group: Sequence[Point], looks: _Looks) -> list[Line2D]:
    handles = [plotting.front_handle("Pareto front")]
    for compressor, colour in looks.colours.items():
        handles.append(Line2D([], [], color=colour, lw=2.5, label=compressor))
    for name, style in looks.selectors.items():
        label = f"{name} (bound)" if style.line == "--" else name
        handles.append(plotting.handle(label, Style(SOFT, style.marker, ""), 5))
    baselines = {c.baseline: style_of_baseline(c) for p in group if (c := p.condition).baseline}
    for label, style in baselines.items():
        handles.append(plotting.handle(str(label), replace(style, line=""), 8))
    return handles


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
