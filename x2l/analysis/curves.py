"""Points -> the accuracy-versus-compute figure and the printed table.

One column of panels per compressor, one row per kind of
compute, one line per selector: lines that belong together stand together, and the Pareto front of
*all* panels of a row is repeated in each, so that methods can be compared across columns. Cells that
were told where the answer lies (the oracle, top_k=gt) are dashed and not part of the front.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from x2l.analysis.figure_style import COLOURS, MARKERS, RC
from x2l.analysis.lmms_eval import Line
from x2l.analysis.points import (
    ALL_HIGH,
    ALL_LOW,
    FULL,
    WORDS,
    Point,
    of_several_settings,
    pareto,
    telling_apart,
    told,
)
from x2l.analysis.scoring import ALL_TASKS

_BOUNDS = ("oracle", "hit_rate")  # selectors that were told where the answer lies
CONTROLS = {FULL: "*", ALL_LOW: "p", ALL_HIGH: "h"}
_AXES = {
    "kv_share": "KV bytes resident while answering (% of uncompressed)",
    "flops_next": "compute of one more question on a pre-filled video (GFLOPs)",
    "kv_bytes_resident": "KV bytes resident while answering (MB)",
    "flops": "compute per question, pre-fill shared out (GFLOPs)",
    "seconds": "seconds per question, pre-fill shared out",
}
_SCALE = {
    "kv_share": 100.0,
    "flops_next": 1e-9,
    "kv_bytes_resident": 1e-6,
    "flops": 1e-9,
    "seconds": 1.0,
}
_DASHES = (
    (0, (1, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
)  # of level lines


class NothingToDraw(ValueError):
    """No cell has an accuracy: no answer is known, or the protocol leaves out what could not be parsed."""


def draw(
    points: Sequence[Point],
    title: str,
    lines: Sequence[Line] = (),
    over: Sequence[str] = ("kv_share", "flops_next"),
) -> Figure:
    """The figure: accuracy with clustered 95 % intervals over KV bytes and over FLOPs.

    Args:
        points: cells over all tasks (points of single tasks are passed over).
        title: what the points are of.
        lines: what others reached; a level line in the panels of the same benchmark.
        over: kinds of compute (fields of `Point`), a row of panels each.

    Raises:
        NothingToDraw: no point has an answer that counts.
    """
    shown = [p for p in points if p.task == ALL_TASKS and p.n > 0]
    if not shown:
        raise NothingToDraw(_why_nothing(points))
    title = "\n".join([title, *_not_drawn(points)])
    columns = sorted({p.compressor for p in shown if p.control != FULL}) or ["none"]
    variants = _variants(shown)
    several = of_several_settings([p for p in shown if not p.control])
    selectors = sorted({_name(p, several) for p in shown if not p.control})
    rows = [(x, variant) for x in over for variant in variants]
    with matplotlib.rc_context(RC):
        size = (max(6.8, 1.4 + 2.9 * len(columns)), 0.9 + 2.85 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(rows), len(columns), sharey=True, squeeze=False)
        for line, (x, variant) in zip(grid, rows, strict=True):
            front = pareto(_comparable(shown, variant), x)
            for axes, compressor in zip(line, columns, strict=True):
                members = [p for p in shown if _belongs(p, compressor, variant)]
                _panel(axes, members, front, x, {s: _named(members, s, several) for s in selectors})
                _level_lines(axes, members, lines)
                words = [told(name, value) for name, value in variant]
                axes.set_title("\n".join([compressor, ", ".join(words)] if words else [compressor]))
                axes.set_xlim(*_limits(shown, x))
                axes.xaxis.set_major_locator(FixedLocator(log_ticks(*_limits(shown, x))))
            line[0].set_ylabel("accuracy (%)")
            line[len(columns) // 2].set_xlabel(_AXES[x])
        figure.suptitle(title, fontsize=10)
        handles = _legend(selectors, shown, lines)
        columns_of_legend = min(len(handles), 2 + len(columns))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns_of_legend)
    return figure


def _not_drawn(points: Sequence[Point]) -> list[str]:
    """One line on the cells that a figure cannot show, if there are any."""
    cells = [p for p in points if p.task == ALL_TASKS and p.n == 0 and p.out_of_memory]
    names = [" ".join([p.compressor, p.control or p.selector, *_k(p)]) for p in cells]
    more = [f"and {len(names) - 3} more"] if len(names) > 3 else []
    return [f"out of memory, not drawn: {', '.join([*names[:3], *more])}"] if names else []


def _k(point: Point) -> list[str]:
    return [] if point.top_k is None else [f"k={point.top_k}"]


def panel_count(points: Sequence[Point]) -> int:
    """How many panels `draw` makes for each kind of compute."""
    shown = [p for p in points if p.task == ALL_TASKS and p.n > 0]
    return len({p.compressor for p in shown if p.control != FULL} or {"none"}) * len(
        _variants(shown)
    )


def save(figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Writes curve.png and curve.pdf into `folder`; equal points give equal bytes."""
    png, pdf = folder / "curve.png", folder / "curve.pdf"
    with matplotlib.rc_context(RC):
        for path, metadata in ((png, {}), (pdf, {"CreationDate": None})):
            temporary = path.with_name(f".{path.name}")
            figure.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=metadata)
            temporary.replace(path)
    return png, pdf


def table(points: Sequence[Point], others: Sequence[Line] = ()) -> str:
    """The points as aligned text, one line per cell; only what differs between cells is named.

    Args:
        points: cells.
        others: what other programs reached, below them.
    """
    shown = [p for p in points if p.task == ALL_TASKS]
    varying = telling_apart(shown)
    header = ["compressor", "selector", "k", *varying, "accuracy", "95% interval", "n", "unparsed"]
    header += ["recall", "KV %", "GFLOPs", "next", "s", "next s"]
    short = any(p.out_of_memory for p in shown)
    header += ["OOM"] if short else []
    lines = [header]
    for p in shown:
        name = p.control or p.selector
        values = [f"{v:g}" if isinstance(v := getattr(p, n), float) else str(v) for n in varying]
        lines.append(
            [
                "-" if p.control == FULL else p.compressor,
                name,
                "-" if p.top_k is None else str(p.top_k),
                *values,
                _marked(p),
                f"{_percent(p.low)} to {_percent(p.high)}" if p.n or not p.out_of_memory else "-",
                str(p.n),
                str(p.parse_failures),
                "-" if p.control or math.isnan(p.recall) else f"{p.recall:.2f}",
                _percent(p.kv_share),
                _number(p.flops * 1e-9, ".3g"),
                _number(p.flops_next * 1e-9, ".2g"),
                _number(p.seconds, ".2g"),
                _number(p.seconds_next, ".2g"),
                *([str(p.out_of_memory)] if short else []),
            ]
        )
    for other in others:
        cells = [other.name, other.benchmark, "-", *["-"] * len(varying)]
        cells += [_percent(other.accuracy.value)]
        cells += [f"{_percent(other.accuracy.low)} to {_percent(other.accuracy.high)}"]
        cells += [str(other.accuracy.count), str(other.parse_failures)]
        lines.append([*cells, *["-"] * (len(header) - len(cells))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = 2 + len(varying)  # names stand left, numbers right
    note = ["* without the answers that ran out of memory (OOM)"] if short else []
    text = [
        "  ".join(
            cell.ljust(width) if index < 2 or 3 <= index < left + 1 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *note])


def _marked(point: Point) -> str:
    """The accuracy; over fewer questions than the others' if memory ran out for some."""
    if not point.out_of_memory:
        return _percent(point.accuracy)
    return f"{_percent(point.accuracy)}*" if point.n else "OOM"


def _percent(share: float) -> str:
    return _number(100 * share, ".1f")


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _why_nothing(points: Sequence[Point]) -> str:
    failures = sum(p.parse_failures for p in points if p.task == ALL_TASKS)
    if failures:
        return (
            f"points: nothing to draw, {failures} answers could not be parsed and the protocol leaves such "
            "out; look at `prediction` in records.jsonl"
        )
    kept = ", ".join(sorted({p.benchmark for p in points})) or "the benchmark"
    return (
        f"points: nothing to draw, {kept} keeps its answers back; send the predictions in "
        "(x2l-collect --lmms-eval), or use another split"
    )


def _name(point: Point, several: Collection[str]) -> str:
    """Of the line that a point belongs to: its selector, with its settings where the selector has several."""
    settings = WORDS["selector_config"].format(point.selector_config)
    return f"{point.selector} {settings}" if point.selector in several else point.selector


def _named(members: Sequence[Point], name: str, several: Collection[str]) -> list[Point]:
    return [p for p in members if not p.control and _name(p, several) == name]


def _variants(shown: Sequence[Point]) -> list[tuple[tuple[str, Any], ...]]:
    """What tells rows of panels apart: (field, value) pairs, sorted. A selector's settings are lines of one panel."""
    cells = [p for p in shown if not p.control] or list(shown)
    names = [name for name in telling_apart(cells) if name != "selector_config"]
    return sorted({tuple((name, getattr(p, name)) for name in names) for p in cells}, key=str)


def _belongs(point: Point, compressor: str, variant: tuple[tuple[str, Any], ...]) -> bool:
    """Whether a panel shows the point; a control shows wherever what it depends on is equal."""
    if point.control == FULL:
        matters: tuple[str, ...] = ("model", "benchmark", "protocol", "frames")
    elif point.control:
        matters = tuple(name for name in WORDS if name not in ("pinned", "seed"))
    else:
        matters = tuple(WORDS)
    same = all(getattr(point, name) == value for name, value in variant if name in matters)
    return same and (point.control == FULL or point.compressor == compressor)


def _comparable(shown: Sequence[Point], variant: tuple[tuple[str, Any], ...]) -> list[Point]:
    """The points that answer the same questions with the same model, rules and frames as a row of panels."""
    fixed = ("model", "benchmark", "protocol", "frames")
    same = [(name, value) for name, value in variant if name in fixed]
    return [p for p in shown if all(getattr(p, name) == value for name, value in same)]


def _limits(shown: Sequence[Point], x: str) -> tuple[float, float]:
    values = [_SCALE[x] * getattr(p, x) for p in shown]
    margin = max(1.12, (max(values) / min(values)) ** 0.06)
    return min(values) / margin, max(values) * margin


def log_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers on a logarithmic axis; evenly spaced ones where it is short."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [value for value in found if low <= value <= high]
        if 3 <= len(found) <= 6:
            return found
    even = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in even if low <= value <= high]


def _panel(
    axes: Axes,
    members: Sequence[Point],
    front: Sequence[Point],
    x: str,
    selecting: Mapping[str, Sequence[Point]],
) -> None:
    steps = [(_SCALE[x] * getattr(p, x), 100 * p.accuracy) for p in front] or [(1.0, math.nan)]
    steps.append((10 * steps[-1][0], steps[-1][1]))  # more compute never costs accuracy
    axes.step(
        *zip(*steps, strict=True),
        where="post",
        color="#bbbbbb",
        linewidth=4,
        alpha=0.6,
        zorder=1,
        solid_capstyle="butt",
    )
    for point in members:
        if point.control == FULL:
            axes.axhline(100 * point.accuracy, color="#555555", linestyle=(0, (4, 3)), lw=0.9)
    for number, line in enumerate(selecting.values()):
        if line:
            _line(axes, line, x, COLOURS[number % 7], MARKERS[number % 7])
    for point in members:
        if point.control:
            _error_bar(axes, point, x, "#222222", CONTROLS[point.control], 10)
    if x in ("kv_share", "kv_bytes_resident"):  # there all selectors of one k stand together
        _label_k(axes, members, x)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, linewidth=0.5)


def _level_lines(axes: Axes, members: Sequence[Point], lines: Sequence[Line]) -> None:
    shown = {point.benchmark for point in members}
    for number, line in enumerate(lines):
        if line.benchmark in shown:
            level = 100 * line.accuracy.value
            axes.axhline(level, color="#222222", linestyle=_DASHES[number % 4], lw=1.1, zorder=2)


def _line(axes: Axes, line: Sequence[Point], x: str, colour: str, marker: str) -> None:
    ordered = sorted(line, key=lambda p: getattr(p, x))
    at = [_SCALE[x] * getattr(p, x) for p in ordered]
    style = "--" if all(p.knows_truth for p in ordered) else "-"
    axes.plot(at, [100 * p.accuracy for p in ordered], style, color=colour, lw=1.4, zorder=3)
    for point in ordered:
        _error_bar(axes, point, x, colour, marker, 4.5)


def _error_bar(axes: Axes, point: Point, x: str, colour: str, marker: str, size: float) -> None:
    axes.errorbar(
        _SCALE[x] * getattr(point, x),
        100 * point.accuracy,
        yerr=[[100 * (point.accuracy - point.low)], [100 * (point.high - point.accuracy)]],
        color=colour,
        marker=marker,
        markersize=size,
        # Hollow: over fewer questions than the others, as memory ran out for some.
        markerfacecolor="white" if point.out_of_memory else colour,
        markeredgecolor=colour if point.out_of_memory else "white",
        markeredgewidth=1.2 if point.out_of_memory else 0.6,
        elinewidth=0.9,
        capsize=2,
        zorder=4,
    )


def _label_k(axes: Axes, members: Sequence[Point], x: str) -> None:
    """Writes k above the best point of each k: all selectors of one k re-load equally much."""
    best: dict[int | str | None, Point] = {}
    for p in members:
        if not p.control and (p.top_k not in best or p.high > best[p.top_k].high):
            best[p.top_k] = p
    first = min(best.values(), key=lambda p: getattr(p, x), default=None)
    for point in best.values():
        axes.annotate(
            f"k={point.top_k}" if point is first else str(point.top_k),
            (_SCALE[x] * getattr(point, x), 100 * point.high),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color="#444444",
        )


def _legend(
    selectors: Sequence[str], shown: Sequence[Point], lines: Sequence[Line]
) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[i % 7],
            marker=MARKERS[i % 7],
            ls="--" if selector.startswith(_BOUNDS) else "-",
            label=f"{selector} (bound)" if selector.startswith(_BOUNDS) else selector,
        )
        for i, selector in enumerate(selectors)
    ]
    words = {FULL: "full (no compression)", ALL_LOW: "all-low", ALL_HIGH: "all-high"}
    for control, marker in CONTROLS.items():
        if any(p.control == control for p in shown):
            style = "--" if control == FULL else ""
            handles.append(
                Line2D(
                    [], [], color="#222222", marker=marker, ls=style, ms=10, label=words[control]
                )
            )
    if any(p.out_of_memory for p in shown):
        label = "hollow: out of memory for some questions"
        edge = {"mfc": "white", "mec": "#555555", "mew": 1.2}
        handles.append(Line2D([], [], ls="", marker="o", label=label, **edge))  # type: ignore[arg-type]
    for number, line in enumerate(lines):
        dashes = _DASHES[number % 4]
        handles.append(Line2D([], [], color="#222222", ls=dashes, lw=1.1, label=line.name))
    return [*handles, Line2D([], [], color="#bbbbbb", lw=4, label="Pareto front of the row")]
