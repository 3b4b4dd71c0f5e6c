"""Points -> the accuracy-versus-compute figure.

What becomes a line, a colour and a panel is `curve_layout.py`'s to say. The Pareto front of *all* comparable cells is
repeated in each panel of a kind of compute, so that methods can be compared across panels. Bounds are dashed and not
part of the front.
"""

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from x2l.analysis import plotting
from x2l.analysis.cell_names import names
from x2l.analysis.compute_axes import FLOPS_NEXT, KV_SHARE, ComputeAxis, drawable
from x2l.analysis.curve_layout import Layout, layout
from x2l.analysis.curve_legend import CHANCE, DASHES, legend, shared
from x2l.analysis.figure_style import OTHERS, RC, SOFT, Style
from x2l.analysis.lmms_eval import ReferenceLine
from x2l.analysis.points import Point, pareto
from x2l.analysis.scoring import ALL_TASKS
from x2l.runs.condition import FULL, trait_label
from x2l.runs.whole_file import whole_file

MOST_PANELS = 12
ALIKE = 1.1  # compute that differs by less than this along a line says nothing: the line is drawn over its trait


class NothingToDraw(ValueError):
    """No cell has an accuracy: no answer is known, or the protocol leaves out what could not be parsed."""


@dataclass(frozen=True)
class _Across:
    """What stands along the lower side of some panels.

    Attributes:
        label: below it.
        value: of a cell; NaN or less than 0 where it has none.
        front: the field of `Point` that the Pareto front is over; None: there is no front.
        ticks: where numbers stand; empty: where the scale has them.
        is_log: whether the scale is a logarithm.
    """

    label: str
    value: Callable[[Point], float]
    front: str | None
    ticks: tuple[float, ...] = ()
    is_log: bool = True


def draw(
    points: Sequence[Point],
    title: str,
    references: Sequence[ReferenceLine] = (),
    over: Sequence[ComputeAxis] | None = None,
) -> Figure:
    """The figure: accuracy with clustered 95 % intervals over KV bytes and over FLOPs.

    Args:
        points: cells over all tasks (points of single tasks are passed over).
        title: what the points are of.
        references: what others reached; a level line in the panels of the same benchmark.
        over: kinds of compute, some panels each; None: the share of KV bytes and the FLOPs of one more question, but
            what a line joins, e.g. frames a chunk, in place of compute that hardly differs along it.

    Raises:
        NothingToDraw: no point has an answer that counts.
    """
    shown = drawable(points)
    if not shown:
        raise NothingToDraw(_why_nothing(points))
    kinds = over or (KV_SHARE, FLOPS_NEXT)
    placed = layout(shown, MOST_PANELS // len(kinds))
    sides = [_over_compute(axis, shown) for axis in kinds]
    if over is None and (trait := _over_trait(shown, placed)):
        told = [s for s in sides if not _is_alike(s, shown, placed)]
        sides = told if len(told) == len(sides) else [*told, trait]
    count = len(placed.panels)
    columns = len(sides) if count == 1 else count if count <= 4 else 3 if count in (5, 6, 9) else 4
    blocks = math.ceil(count / columns)  # rows of panels for one kind of compute
    lines = 1 if count == 1 else blocks * len(sides)
    with matplotlib.rc_context(RC):
        size = (max(6.8, 1.4 + 2.9 * columns), 1.3 + 2.75 * lines)
        figure, grid = plotting.panels(lines, columns, size, sharey=True)
        for number, side in enumerate(sides):
            rows = grid[number * blocks : (number + 1) * blocks]
            if count == 1:
                rows = [[grid[0][number]]]
            _side(rows, side, shown, placed, references)
        for row in grid:
            row[0].set_ylabel("accuracy (%)")
        _accuracies(grid[0][0], shown)
        heading = [title, shared(shown, placed), *_not_drawn(points)]
        figure.suptitle("\n".join(filter(None, heading)), fontsize=10)
        handles = legend(placed, shown, references, any(side.front for side in sides))
        longest = max(len(str(handle.get_label())) for handle in handles)
        across = max(1, min(len(handles), int((size[0] - 0.2) / (0.55 + 0.068 * longest))))
        figure.legend(handles=handles, loc="outside lower center", ncols=across)
    return figure


def _side(
    rows: Sequence[Sequence[Axes]],
    side: _Across,
    shown: Sequence[Point],
    placed: Layout,
    references: Sequence[ReferenceLine],
) -> None:
    """All panels over one side; axes beyond them go."""
    cells = [axes for row in rows for axes in row]
    for axes in cells[len(placed.panels) :]:
        axes.remove()
    for axes, panel in zip(cells, placed.panels, strict=False):
        _panel(axes, panel, side, shown, placed, references)
    # In the middle of the last row: of an even number of panels between two, else it would be cut at the edge.
    last = len(placed.panels) - sum(map(len, rows[:-1]))
    rows[-1][(last - 1) // 2].set_xlabel(
        textwrap.fill(side.label, 46 if last == 1 else 200), x=0.5 if last % 2 else 1.02
    )


def panel_count(points: Sequence[Point]) -> int:
    """How many panels `draw` makes for one kind of compute alone."""
    return len(layout(drawable(points), MOST_PANELS).panels)


def save(figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Writes curve.png and curve.pdf into `folder`; equal points give equal bytes."""
    png, pdf = folder / "curve.png", folder / "curve.pdf"
    with matplotlib.rc_context(RC):
        for path, metadata in ((png, {}), (pdf, {"CreationDate": None})):
            with whole_file(path) as part:
                figure.savefig(part, format=path.suffix[1:], dpi=160, metadata=metadata)
    return png, pdf


def _over_compute(axis: ComputeAxis, shown: Sequence[Point]) -> _Across:
    scale, unit = axis.scaled(max(axis.value(p) for p in shown))
    return _Across(f"{axis.words} ({unit})", lambda p: axis.value(p) * scale, axis.field)


def _over_trait(shown: Sequence[Point], placed: Layout) -> _Across | None:
    """Over what lines join, where that is a number for every cell of a line."""
    values = {
        placed.place(p.condition)
        for p in shown
        if not p.condition.baseline or placed.baselines_alone
    }
    if placed.joined is None or any(math.isnan(value) for value in values):
        return None
    words = _trait_words(placed.joined)
    is_log = min(values) > 0 and placed.joined != "top_k"
    ticks = tuple(sorted(values))
    return _Across(words, lambda p: placed.place(p.condition), None, ticks, is_log)


def _trait_words(trait: str) -> str:
    if trait.startswith("ratio."):
        return f"ratio of {trait.removeprefix('ratio.')} (tokens in / tokens out)"
    if trait == "top_k":
        return "k: chunks re-loaded"
    return trait_label(trait, "").strip()


def _is_alike(side: _Across, shown: Sequence[Point], placed: Layout) -> bool:
    """Whether compute hardly differs along the lines."""
    lines: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for p in shown:
        if not p.condition.baseline or placed.baselines_alone:
            panel = tuple(panel for panel in placed.panels if placed.shows(p.condition, panel))
            lines[(panel, placed.line(p.condition))].append(side.value(p))
    widths = [max(v) / min(v) for v in lines.values() if len(v) > 1 and min(v) > 0]
    return bool(widths) and sorted(widths)[len(widths) // 2] < ALIKE


def _panel(
    axes: Axes,
    panel: tuple[object, ...],
    side: _Across,
    shown: Sequence[Point],
    placed: Layout,
    references: Sequence[ReferenceLine],
) -> None:
    at = {id(p): side.value(p) for p in shown}
    if not side.front:  # full KVs have no place of their own there
        at |= {id(p): math.nan for p in shown if p.condition.baseline == FULL}
    members = [p for p in shown if placed.shows(p.condition, panel)]
    if side.front and len({tuple(p.condition.setting) for p in members}) == 1:
        fixed = members[0].condition.setting
        front = pareto([p for p in shown if p.condition.setting == fixed], side.front)
        plotting.front_steps(axes, [at[id(p)] for p in front], front)
    for p in members:
        if p.condition.baseline == FULL:
            plotting.level_line(axes, p.accuracy, (0, (4, 3)), linewidth=0.9)
    _lines(axes, members, at, placed, side)
    for chance in sorted({round(p.chance, 4) for p in members if not math.isnan(p.chance)}):
        plotting.level_line(axes, chance, CHANCE, color=SOFT, linewidth=1.1)
    benchmarks = {point.condition.benchmark for point in members}
    for number, reference in enumerate(references):
        if reference.benchmark in benchmarks:
            dashes = DASHES[number % len(DASHES)]
            plotting.level_line(axes, reference.accuracy.value, dashes, linewidth=1.1)
    axes.set_title(textwrap.fill(placed.title(panel), 40))
    values = [value for value in at.values() if value > 0]
    if side.is_log and values:
        margin = max(1.12, (max(values) / min(values)) ** 0.06)
        plotting.log_axis(axes, min(values) / margin, max(values) * margin)
    if 0 < len(side.ticks) <= 8:
        axes.set_xticks(side.ticks, [f"{tick:g}" for tick in side.ticks])
    if side.front:
        _label_joined(axes, members, at, placed)


def _lines(
    axes: Axes, members: Sequence[Point], at: Mapping[int, float], placed: Layout, side: _Across
) -> None:
    """Lines in the order of what they join. Of equal ones the first is the widest, so that each is seen.

    Over a trait all lines have points at the same places: there they stand a little aside of each other.
    """
    lines: dict[tuple[object, ...], list[Point]] = defaultdict(list)
    for p in sorted(members, key=lambda p: placed.order(p.condition)):
        if not math.isnan(at[id(p)]):
            c = p.condition
            by = c.compressor if placed.is_apart(c) else None
            lines[placed.line(c), c.baseline, by].append(p)
    drawn: dict[tuple[tuple[float, float], ...], list[object]] = defaultdict(list)
    for (name, *_), row in lines.items():
        drawn[tuple((at[id(p)], p.accuracy) for p in row)].append(name)
    for number, ((name, baseline, _), row) in enumerate(lines.items()):
        style, grey = placed.style(row[0].condition), name in placed.others
        x = [at[id(p)] for p in row]
        step = 0.0 if side.front else number - (len(lines) - 1) / 2
        equal = drawn[tuple(zip(x, (p.accuracy for p in row), strict=True))]
        below = len(equal) - 1 - equal.index(name) if side.front else 0
        x = [value * 1.02**step if side.is_log else value + 0.03 * step for value in x]
        if len(row) > 1 and placed.joins([p.condition for p in row]):
            width = 0.8 if grey else 1.0 if baseline else 1.4 + 2.2 * below
            plotting.line(axes, x, row, style, linewidth=width, zorder=2 if grey or below else 3)
        for p, where in zip(row, x, strict=True):
            size = 10.0 if p.condition.baseline == FULL else 7.0 if baseline else 4.5
            size += 4 * below
            if grey:
                plotting.mark(axes, where, p, Style(OTHERS, ".", ""), 3, interval=False, zorder=2)
            else:
                plotting.mark(axes, where, p, style, size, zorder=3 if below else 4)


def _label_joined(
    axes: Axes, members: Sequence[Point], at: Mapping[int, float], placed: Layout
) -> None:
    """Writes the value that a line joins above the best point that has it, as far as there is room.

    So all selectors of one k are found: they re-load equally much.
    """
    trait = placed.joined or "top_k"
    best: dict[object, Point] = {}
    for p in members:
        value = p.condition.traits.get(trait)
        is_line = (
            placed.baselines_alone and p.condition.baseline != FULL or not p.condition.baseline
        )
        if not is_line or value is None:
            continue
        higher = value not in best or p.accuracy_high > best[value].accuracy_high
        if higher and placed.line(p.condition) not in placed.others:
            best[value] = p
    low, high = axes.get_xlim()
    taken: list[tuple[float, float]] = []
    for value, point in sorted(best.items(), key=lambda item: placed.order(item[1].condition)):
        across = math.log(at[id(point)] / low) / math.log(high / low)
        above = 100 * point.accuracy_high
        if any(abs(across - x) < 0.11 and abs(above - y) < 9 for x, y in taken):
            continue
        text = trait_label(trait, value)
        axes.annotate(
            text
            if not taken
            else text.removeprefix("k=").split(" ")[-1 if trait.startswith("ratio.") else 0],
            (at[id(point)], above),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color="#444444",
        )
        taken.append((across, above))


def _accuracies(axes: Axes, shown: Sequence[Point]) -> None:
    """From 0 where anything is low, else from somewhat below the lowest."""
    lows = [100 * p.accuracy_low for p in shown] + [100 * p.chance for p in shown if p.chance > 0]
    least = min(lows)
    axes.set_ylim(0 if least < 40 else 10 * math.floor(least / 10) - 5, 106)


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
