"""Accuracy by a setting that is no number: one panel a compressor, one mark a control or selector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from experiments.paper.kit.cells import Cell, only, pick
from experiments.paper.kit.drawing import CONTROL, LABELS, LOOKS
from x2l.analysis.points import Point

SHOWN = {"all": (CONTROL, "p", ""), "none": (CONTROL, "h", ""), **LOOKS}


def marks(
    axes: Axes,
    found: Sequence[Cell],
    compressor: str,
    settings: Sequence[str],
    of: Callable[[Point], str],
) -> None:
    """Marks with intervals, one column a setting.

    Args:
        axes: where.
        found: cells.
        compressor: whose.
        settings: names of the columns.
        of: the setting of a point.
    """
    own = pick(found, compressor=compressor)
    names = [name for name in SHOWN if pick(own, selector=name)]
    for shift, name in enumerate(names):
        colour, marker, _ = SHOWN[name]
        rows = [
            c.point
            for setting in settings
            for c in pick(own, selector=name)
            if of(c.point) == setting
        ]
        value = [100 * p.accuracy for p in rows]
        low = [max(0.0, v - 100 * p.low) for v, p in zip(value, rows, strict=True)]
        high = [max(0.0, 100 * p.high - v) for v, p in zip(value, rows, strict=True)]
        axes.errorbar(
            [settings.index(of(p)) + 0.16 * (shift - (len(names) - 1) / 2) for p in rows],
            value,
            yerr=[low, high],
            color=colour,
            marker=marker,
            ls="",
            ms=6,
            elinewidth=0.9,
            capsize=2,
            label=LABELS[name],
        )
    axes.set_title(compressor)
    axes.set_xticks(range(len(settings)), settings)
    axes.set_xlim(-0.5, len(settings) - 0.5)


def at(found: Sequence[Cell], compressor: str, selector: str, **setting: str) -> Cell | None:
    """The cell of a selector at a setting, at whatever k."""
    return only(found, compressor=compressor, selector=selector, **setting)
