"""The words of the curve: its legend, and what all of its cells share."""

import math
from collections import defaultdict
from collections.abc import Sequence

from matplotlib.lines import Line2D

from x2l.analysis import plotting
from x2l.analysis.curve_layout import CHOICE, Layout
from x2l.analysis.figure_style import INK, OTHERS, SOFT, Style, style_of_baseline
from x2l.analysis.lmms_eval import ReferenceLine
from x2l.analysis.points import Point
from x2l.runs.condition import FULL, trait_label

DASHES = ((0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))  # others'
CHANCE: tuple[int, tuple[float, float]] = (0, (1, 3))  # the line of guessing


def legend(
    placed: Layout, shown: Sequence[Point], references: Sequence[ReferenceLine], front: bool
) -> list[Line2D]:
    """What lines, marks, bars and dashes are.

    Args:
        placed: what stands where.
        shown: cells.
        references: what others reached.
        front: whether a Pareto front is drawn.
    """
    handles = [
        plotting.handle(f"{name or 'all other runs'}{' (bound)' * (style.line == '--')}", style)
        for name, style in placed.styles.items()
        if name not in placed.others
    ]
    if placed.others:
        label = f"{len(placed.others)} other lines"
        handles.append(Line2D([], [], color=OTHERS, lw=0.8, label=label))
    baselines = {
        p.condition.baseline: style_of_baseline(p.condition)
        for p in shown
        if p.condition.baseline and (p.condition.baseline == FULL or not placed.baselines_alone)
        if not placed.is_apart(p.condition)
    }
    for name, style in baselines.items():
        label = "full (no compression)" if name == FULL else str(name)
        line = (0, (4, 3)) if name == FULL else ":" if placed.joined != "top_k" else ""
        handles.append(plotting.handle(label, Style(style.colour, style.marker, line), 8))  # type: ignore[arg-type]
    apart: dict[str, set[str]] = defaultdict(set)
    for condition in (p.condition for p in shown if placed.is_apart(p.condition)):
        name = str(condition.baseline)
        apart[name].add(condition.compressor)
        baselines[name] = style_of_baseline(condition)
    for name, compressors in apart.items():
        style = Style(OTHERS, baselines[name].marker, "")
        handles.append(plotting.handle(f"{name} of {', '.join(sorted(compressors))}", style, 8))
    if any(p.condition.is_bound for p in shown):
        label = "dashed: told where the answer lies"
        handles.append(Line2D([], [], color=SOFT, ls="--", label=label))
    if any(p.out_of_memory for p in shown):
        handles.append(plotting.hollow_handle())
    if known := sorted({round(100 * p.chance) for p in shown if not math.isnan(p.chance)}):
        label = f"guessing: {', '.join(map(str, known))} %"
        handles.append(Line2D([], [], color=SOFT, ls=CHANCE, lw=1.1, label=label))
    for number, reference in enumerate(references):
        dashes = DASHES[number % len(DASHES)]
        handles.append(Line2D([], [], color=INK, ls=dashes, lw=1.1, label=reference.name))
    if front:
        handles.append(plotting.front_handle("Pareto front of all panels"))
    return [*handles, plotting.interval_handle()]


def shared(shown: Sequence[Point], placed: Layout) -> str:
    """What is the same in all cells that choose chunks, as far as no panel or line says it."""
    choosing = [p.condition for p in shown if not p.condition.baseline]
    kept = [name for name in ("compressor", CHOICE, "top_k") if name not in placed.columns]
    words = []
    for name in kept:
        if name == placed.joined or name in placed.hues:
            continue
        of = choosing or [p.condition for p in shown if p.condition.baseline != FULL]
        values = {
            (c.baseline or placed.values.called.choice(c)) if name == CHOICE else c.traits.get(name)
            for c in of
        }
        if len(values) == 1:
            (value,) = values
            words.append(str(value) if name == CHOICE else trait_label(name, value))
    return ", ".join(filter(None, words))
