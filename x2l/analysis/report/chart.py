"""Cells -> the charts of a report as plain values, which `charts.js` draws, explains on hover and filters. Pure.

A chart is one kind of compute for one group of comparable cells; all charts of a group share its cells and what is
switched off of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import MaxNLocator

from x2l.analysis import plotting
from x2l.analysis.cell_names import Names
from x2l.analysis.compute_axes import ComputeAxis
from x2l.analysis.figure_style import (
    Style,
    compressor_styles,
    selector_styles,
    style_of_baseline,
)
from x2l.analysis.points import Point, pareto
from x2l.analysis.units import percent, percent_range, prefixed
from x2l.runs.condition import FULL, Condition

MOST_INTERVALS = 60  # cells of which every interval is drawn; of more, those on the front
MOST_LINES = 24  # lines that may still be followed


@dataclass(frozen=True)
class Charts:
    """Everything that is drawn, as plain values.

    Attributes:
        groups: of comparable cells: `cells`, and the entries of the legend by which they are switched, `compressors`
            and `looks` (marks, of what chooses chunks), one of which has colours.
        charts: name -> the scale, where each cell of the group stands on it, and its Pareto front, cheapest first.
    """

    groups: tuple[Mapping[str, Any], ...]
    charts: Mapping[str, Mapping[str, Any]]

    @property
    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "groups": list(self.groups),
            "charts": dict(self.charts),
            "most": {"intervals": MOST_INTERVALS, "lines": MOST_LINES},
        }


def group_values(
    group: Sequence[Point], called: Names, commands: Mapping[Condition, str]
) -> dict[str, Any]:
    """What all charts of some comparable cells share.

    Args:
        group: cells that may be compared, see `compute_axes.comparable`; at least one.
        called: names of cells.
        commands: cell -> the command that asked for it, as far as it is known.
    """
    conditions = [p.condition for p in group]
    compressors = sorted({c.compressor for c in conditions if c.baseline != FULL})
    looks = _looks(conditions)
    colours = _colours(conditions, compressors, looks)
    told = sorted({commands[c] for c in conditions if c in commands})
    cells = []
    for p in group:
        condition = p.condition
        command = commands.get(condition)
        cells.append(
            {
                "name": called.cell(condition),
                "bound": condition.is_bound,
                "line": None if condition.baseline else called.line(condition),
                "compressor": None
                if condition.baseline == FULL
                else compressors.index(condition.compressor),
                "look": list(looks).index(_look_name(condition)),
                "colour": colours.of(condition),
                "accuracy": [
                    round(100 * share, 2) for share in (p.accuracy, p.accuracy_low, p.accuracy_high)
                ],
                "hollow": p.out_of_memory > 0,
                "facts": _facts(p),
                "command": None if command is None else told.index(command),
            }
        )
    return {
        "cells": cells,
        "compressors": [
            {"name": name, "colour": colours.compressors.get(name)} for name in compressors
        ],
        "looks": [
            {
                "name": name,
                "marker": style.marker,
                "colour": colours.looks.get(name),
                "bound": style.line == "--" and name != FULL,
                "size": 6 if name == FULL else 5 if name.startswith("all-") else 4,
            }
            for name, style in looks.items()
        ],
        "commands": told,
        "accuracies": _accuracies(group),
        "chance": sorted({round(100 * p.chance, 2) for p in group if not math.isnan(p.chance)}),
    }


def chart_values(group: Sequence[Point], number: int, axis: ComputeAxis) -> dict[str, Any]:
    """One chart.

    Args:
        group: see `group_values`.
        number: of the group.
        axis: of compute.
    """
    scale, unit = axis.scaled(max(axis.value(p) for p in group))
    at = [axis.value(p) * scale for p in group]
    place = {id(p): index for index, p in enumerate(group)}
    low, high = min(at), max(at)
    is_log = low > 0
    if is_log:
        margin = max(1.06, (high / low) ** 0.04)
        low, high = low / margin, high * margin
        ticks = plotting.log_ticks(low, high)
    else:
        low, high = 0.0, 1.06 * high or 1.0
        even = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(value) for value in even if low <= value <= high]
    return {
        "group": number,
        "label": f"{axis.words} ({unit})",
        "log": is_log,
        "low": low,
        "high": high,
        "ticks": [[tick, f"{tick:.4g}"] for tick in ticks],
        "at": [float(f"{value:.6g}") for value in at],
        "front": [place[id(p)] for p in pareto(group, axis.field)],
    }


def _look_name(condition: Condition) -> str:
    return condition.baseline or condition.chosen_by


def _looks(conditions: Sequence[Condition]) -> dict[str, Style]:
    """Marks: of what chooses chunks, then of conditions that do not choose."""
    choosing = [c for c in conditions if not c.baseline]
    methods = {c.chosen_by for c in choosing if not c.is_bound}
    chosen_by = sorted({c.chosen_by for c in choosing})
    looks = selector_styles({name: "method" if name in methods else "bound" for name in chosen_by})
    baselines = {c.baseline: style_of_baseline(c) for c in conditions if c.baseline}
    return {**looks, **baselines}


@dataclass(frozen=True)
class _Colours:
    """What colours say: the compressor, or what chooses chunks; no name has one where it would not tell it apart."""

    compressors: Mapping[str, str]
    looks: Mapping[str, str]

    def of(self, condition: Condition) -> str | None:
        """Of a cell."""
        if condition.baseline == FULL:
            return None
        return self.looks.get(_look_name(condition)) or self.compressors.get(condition.compressor)


def _colours(
    conditions: Sequence[Condition], compressors: Sequence[str], looks: Mapping[str, Style]
) -> _Colours:
    """Colours of selectors where chunks are chosen with one compressor alone, else of compressors."""
    choosing = [c for c in conditions if not c.baseline]
    if len({c.compressor for c in choosing}) == 1 and len({c.chosen_by for c in choosing}) > 1:
        return _Colours({}, {c.chosen_by: looks[c.chosen_by].colour for c in choosing})
    styles = compressor_styles(compressors)
    colours = {name: styles[name].colour for name in compressors}
    return _Colours(colours if len(set(colours.values())) == len(colours) else {}, {})


def _facts(p: Point) -> list[list[str]]:
    """What is said of a cell on hover: (what, how much)."""
    accuracy = f"{percent(p.accuracy)} % ({percent_range(p.accuracy_low, p.accuracy_high)})"
    facts = [
        ["accuracy", f"{accuracy}, {p.questions:,} questions, {p.videos:,} videos"],
        ["KV bytes", f"{prefixed(p.kv_bytes_stored, 'B')}, {percent(p.kv_share)} %"],
        ["FLOPs", prefixed(p.flops_total, "FLOPs")],
        ["seconds", f"{p.seconds_total:.3g}"],
    ]
    if p.out_of_memory:
        facts.append(["out of memory", f"{p.out_of_memory:,} questions"])
    return facts


def _accuracies(group: Sequence[Point]) -> list[float]:
    """Lower and upper end of the scale, percent: from 0 where anything is low."""
    lows = [100 * p.accuracy_low for p in group] + [100 * p.chance for p in group if p.chance > 0]
    least = min(lows)
    return [0 if least < 40 else 10 * math.floor(least / 10) - 5, 104]
