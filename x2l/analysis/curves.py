"""Points -> the accuracy-versus-compute figure.

One column of panels per compressor, one row per kind of compute, one line per selector: lines that belong together
stand together, and the Pareto front of *all* panels of a row is repeated in each, so that methods can be compared
across columns. Bounds are dashed and not part of the front.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from x2l.analysis import plotting
from x2l.analysis.cell_names import Names, names
from x2l.analysis.compute_axes import FLOPS_NEXT, KV_BYTES, KV_SHARE, ComputeAxis, drawable
from x2l.analysis.figure_style import INK, RC, Style, selector_styles, style_of_baseline
from x2l.analysis.lmms_eval import ReferenceLine
from x2l.analysis.points import Point, pareto
from x2l.analysis.scoring import ALL_TASKS
from x2l.runs.condition import FULL, Condition, choice_names, setting_names, trait_label
from x2l.runs.whole_file import whole_file

_DASHES = ((0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))


class NothingToDraw(ValueError):
    """No cell has an accuracy: no answer is known, or the protocol leaves out what could not be parsed."""


@dataclass(frozen=True)
class _Layout:
    """What stands where.

    Attributes:
        columns: compressors, a column of panels each.
        variants: what else tells cells apart, a row of panels each (for each kind of compute): trait -> value.
        called: names of the cells.
        styles: of the lines, by what chooses the chunks.
    """

    columns: tuple[str, ...]
    variants: tuple[Mapping[str, Hashable], ...]
    called: Names
    styles: Mapping[str, Style]

    def shows(self, condition: Condition, compressor: str, variant: Mapping[str, Hashable]) -> bool:
        """Whether a panel shows the cell; one without choice stands wherever what it depends on is equal."""
        ignored: tuple[str, ...] = choice_names() if condition.baseline else ()
        if condition.baseline == FULL:
            ignored = tuple(name for name in variant if name not in setting_names())
        elif condition.compressor != compressor:
            return False
        traits = condition.traits
        return all(traits.get(name) == value or name in ignored for name, value in variant.items())


def draw(
    points: Sequence[Point],
    title: str,
    references: Sequence[ReferenceLine] = (),
    over: Sequence[ComputeAxis] = (KV_SHARE, FLOPS_NEXT),
) -> Figure:
    """The figure: accuracy with clustered 95 % intervals over KV bytes and over FLOPs.

    Args:
        points: cells over all tasks (points of single tasks are passed over).
        title: what the points are of.
        references: what others reached; a level line in the panels of the same benchmark.
        over: kinds of compute, a row of panels each.

    Raises:
        NothingToDraw: no point has an answer that counts.
    """
    shown = drawable(points)
    if not shown:
        raise NothingToDraw(_why_nothing(points))
    layout = _layout(shown)
    rows = [(axis, variant) for axis in over for variant in layout.variants]
    columns = len(layout.columns)
    with matplotlib.rc_context(RC):
        size = (max(6.8, 1.4 + 2.9 * columns), 0.9 + 2.85 * len(rows))
        figure, grid = plotting.panels(len(rows), columns, size, sharey=True)
        for panels, (axis, variant) in zip(grid, rows, strict=True):
            scale, unit = axis.scaled(max(axis.value(p) for p in shown))
            at = {id(p): axis.value(p) * scale for p in shown}
            setting = {name: variant[name] for name in setting_names() if name in variant}
            comparable = [p for p in shown if setting.items() <= p.condition.traits.items()]
            front = pareto(comparable, axis.field)
            for axes, compressor in zip(panels, layout.columns, strict=True):
                members = [p for p in shown if layout.shows(p.condition, compressor, variant)]
                plotting.front_steps(axes, [at[id(p)] for p in front], front)
                _panel(axes, members, at, layout)
                if axis in (KV_SHARE, KV_BYTES):  # there all selectors of one k stand together
                    _label_k(axes, members, at)
                _level_lines(axes, members, references)
                words = [trait_label(name, value) for name, value in variant.items()]
                axes.set_title(
                    "\n".join(filter(None, [compressor, ", ".join(filter(None, words))]))
                )
                margin = max(1.12, (max(at.values()) / min(at.values())) ** 0.06)
                plotting.log_axis(axes, min(at.values()) / margin, max(at.values()) * margin)
            panels[0].set_ylabel("accuracy (%)")
            # In the middle of the row: of an even number of panels between two, else it would be cut at the edge.
            middle = 0.5 if columns % 2 else 1.02
            panels[(columns - 1) // 2].set_xlabel(f"{axis.words} ({unit})", x=middle)
        figure.suptitle("\n".join([title, *_not_drawn(points)]), fontsize=10)
        handles = _legend(layout, shown, references)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 2 + columns)
        )
    return figure


def panel_count(points: Sequence[Point]) -> int:
    """How many panels `draw` makes for each kind of compute."""
    layout = _layout(drawable(points))
    return len(layout.columns) * len(layout.variants)


def save(figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Writes curve.png and curve.pdf into `folder`; equal points give equal bytes."""
    png, pdf = folder / "curve.png", folder / "curve.pdf"
    with matplotlib.rc_context(RC):
        for path, metadata in ((png, {}), (pdf, {"CreationDate": None})):
            with whole_file(path) as part:
                figure.savefig(part, format=path.suffix[1:], dpi=160, metadata=metadata)
    return png, pdf


def _layout(shown: Sequence[Point]) -> _Layout:
    conditions = [p.condition for p in shown]
    choosing = [condition for condition in conditions if not condition.baseline]
    called = names(choosing or conditions)
    variants = {tuple((n, c.traits.get(n)) for n in called.varying) for c in choosing or conditions}
    compressors = {c.compressor for c in conditions if c.baseline != FULL} or {"none"}
    bounds: dict[str, list[bool]] = defaultdict(list)
    for condition in choosing:
        bounds[called.choice(condition)].append(condition.is_bound)
    return _Layout(
        tuple(sorted(compressors)),
        tuple(dict(variant) for variant in sorted(variants, key=str)),
        called,
        selector_styles({n: "bound" if all(of) else "method" for n, of in sorted(bounds.items())}),
    )


def _panel(axes: Axes, members: Sequence[Point], at: Mapping[int, float], layout: _Layout) -> None:
    lines: dict[str, list[Point]] = defaultdict(list)
    for point in members:
        if point.condition.baseline == FULL:
            plotting.level_line(axes, point.accuracy, (0, (4, 3)), linewidth=0.9)
        elif not point.condition.baseline:
            lines[layout.called.choice(point.condition)].append(point)
    for name, row in lines.items():
        plotting.line(axes, [at[id(p)] for p in row], row, layout.styles[name])
        for point in row:
            plotting.mark(axes, at[id(point)], point, layout.styles[name])
    for point in members:
        if point.condition.baseline:
            plotting.mark(axes, at[id(point)], point, style_of_baseline(point.condition), 10)


def _level_lines(axes: Axes, members: Sequence[Point], references: Sequence[ReferenceLine]) -> None:
    benchmarks = {point.condition.benchmark for point in members}
    for number, reference in enumerate(references):
        if reference.benchmark in benchmarks:
            dashes = _DASHES[number % len(_DASHES)]
            plotting.level_line(axes, reference.accuracy.value, dashes, linewidth=1.1)


def _label_k(axes: Axes, members: Sequence[Point], at: Mapping[int, float]) -> None:
    """Writes k above the best point of each k: all selectors of one k re-load equally much."""
    best: dict[int | str | None, Point] = {}
    for p in members:
        top_k = p.condition.top_k
        higher = top_k not in best or p.accuracy_high > best[top_k].accuracy_high
        if not p.condition.baseline and higher:
            best[top_k] = p
    first = min(best.values(), key=lambda p: at[id(p)], default=None)
    for top_k, point in best.items():
        axes.annotate(
            f"k={top_k}" if point is first else str(top_k),
            (at[id(point)], 100 * point.accuracy_high),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color="#444444",
        )


def _legend(
    layout: _Layout, shown: Sequence[Point], references: Sequence[ReferenceLine]
) -> list[Line2D]:
    handles = [
        plotting.handle(f"{name} (bound)" if style.line == "--" else name, style)
        for name, style in layout.styles.items()
    ]
    baselines = {
        p.condition.baseline: style_of_baseline(p.condition) for p in shown if p.condition.baseline
    }
    for name, style in baselines.items():
        label = "full (no compression)" if name == FULL else str(name)
        handles.append(plotting.handle(label, style, 10))
    if any(p.out_of_memory for p in shown):
        handles.append(plotting.hollow_handle())
    for number, reference in enumerate(references):
        dashes = _DASHES[number % len(_DASHES)]
        handles.append(Line2D([], [], color=INK, ls=dashes, lw=1.1, label=reference.name))
    return [*handles, plotting.front_handle("Pareto front of the row")]


def _not_drawn(points: Sequence[Point]) -> list[str]:
    """One line on the cells that a figure cannot show, if there are any."""
    called = names(p.condition for p in points)
    short = [p for p in points if p.task == ALL_TASKS and p.questions == 0 and p.out_of_memory]
    cells = [called.cell(p.condition) for p in short]
    more = [f"and {len(cells) - 3} more"] if len(cells) > 3 else []
    return [f"out of memory, not drawn: {', '.join([*cells[:3], *more])}"] if cells else []


def _why_nothing(points: Sequence[Point]) -> str:
    failures = sum(p.parse_failures for p in points if p.task == ALL_TASKS)
    if failures:
        return (
            f"points: nothing to draw, {failures} answers could not be parsed and the protocol leaves such "
            "out; look at `prediction` in records.jsonl"
        )
    kept = ", ".join(sorted({p.condition.benchmark for p in points})) or "the benchmark"
    return (
        f"points: nothing to draw, {kept} keeps its answers back; send the predictions in "
        "(x2l-collect --lmms-eval), or use another split"
    )
