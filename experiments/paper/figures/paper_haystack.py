"""Needle in a haystack: accuracy by length of the video and depth of the needle, a heat map a system and compressor.

Length is the video's (`duration`), depth the middle of the ground-truth chunks as a share of all chunks, both from the
records; questions with several ground-truth chunks count at their mean.

python -m experiments.paper.figures.paper_haystack outputs/paper/sweeps/paper_haystack
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes

from experiments.paper.kit.cells import Cell, cells, compressors
from experiments.paper.kit.drawing import GREY, LABELS, LOOKS, described, legend, panels
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.sourced import sourced as reported
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import Family, family, listed, percent
from x2l.analysis.points import Point, points
from x2l.analysis.statistics import Outcome, accuracy
from x2l.runs.records import Record

NAME = "paper_haystack"
SYSTEMS = ("all", "none", "attention", "oracle")
DEPTHS = 4  # bins; every one is a whole number of chunks from four chunks on
MOST_LENGTHS = 6
# What the lengths of one system must share; `frames` goes with the length.
ONE = ("selector_config", "top_k", "pinned", "ratio_low", "ratio_high", "context", "positions")


def depth(record: Record) -> int | None:
    """Bin of the needle's place in the video, 0 at its beginning; None where the set does not say."""
    if not record.gt_chunks:
        return None
    middle = fmean(chunk + 0.5 for chunk in record.gt_chunks) / len(record.kept_high)
    return min(DEPTHS - 1, int(middle * DEPTHS))


def lengths(records: Sequence[Record]) -> list[float]:
    """Upper ends of the columns, seconds: the lengths there are; their quantiles where they are many."""
    there = sorted({round(record.duration) for record in records})
    if len(there) <= MOST_LENGTHS:
        return [float(length) for length in there]
    cuts = np.quantile([record.duration for record in records], np.linspace(0, 1, MOST_LENGTHS + 1))
    return sorted({float(math.ceil(cut)) for cut in cuts[1:]})


def grid(records: Sequence[Record], ends: Sequence[float]) -> dict[tuple[int, int], list[Record]]:
    """Records by (depth, length); depth 0 for all where none is known."""
    found: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in records:
        column = next(at for at, end in enumerate(ends) if round(record.duration) <= end)
        found[depth(record) or 0, column].append(record)
    return found


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    there = {cell.point.selector for cell in found}
    systems = [name for name in SYSTEMS if name in there]
    ends = lengths(records)
    known = any(record.gt_chunks for record in records)
    whole = {(method, name): _all(found, method, name) for method in methods for name in systems}
    both = [(whole[m, "none"], whole[m, "oracle"]) for m in methods if "oracle" in systems]
    tested = family(both)
    figure, axes = panels(len(systems) + 1, len(methods), width=2.15, height=2.25, below=0.9)
    rows = []
    for number, method in enumerate(methods):
        line = axes[number * (len(systems) + 1) :][: len(systems) + 1]
        for axis, name in zip(line, systems, strict=False):
            cell = whole[method, name]
            values = _map(axis, cell, ends, known)
            axis.set_title(f"{method}, {LABELS[name].replace(' (bound)', '')}", fontsize=8)
            rows += [(method, LABELS[name], *row) for row in values]
        line[0].set_ylabel("depth of the needle (%)")
        _means(line[-1], [whole[method, name] for name in systems], systems)
    legend(figure, axes, columns=3)
    described(figure, [whole[methods[0], systems[0]]])
    theirs = reported("haystack")
    header = ("compressor", "system", "depth", *(f"{end:g} s" for end in ends))
    return Result(
        "Needle in a haystack: length and depth",
        figure,
        (
            Table(
                "Accuracy % (questions) by depth of the needle and length of the video",
                header,
                tuple(rows),
                words=3,
            ),
        ),
        _finding(whole, methods, ends, tested),
        (theirs.told,),
    )


def _all(found: Sequence[Cell], method: str, selector: str) -> Cell:
    """One system over all lengths: runs of several lengths are one cell here.

    Raises:
        ValueError: its cells differ in more than length, or answer a question twice.
    """
    own = [
        cell for cell in found if (cell.point.compressor, cell.point.selector) == (method, selector)
    ]
    for name in ONE:
        if len(values := sorted({str(getattr(cell.point, name)) for cell in own})) > 1:
            raise ValueError(
                f"records: {method}, {selector} of several values of {name} ({', '.join(values)}), which a map would "
                "mix; give each a folder of its own (hydra.sweep.dir=)"
            )
    records = tuple(record for cell in own for record in cell.records)
    if twice := len(records) - len({record.sample_id for record in records}):
        raise ValueError(
            f"records: {method}, {selector} answers {twice} questions more than once, which a map would mix; "
            "give each run of the same questions a folder of its own (hydra.sweep.dir=)"
        )
    return Cell(_pooled(records), records)


def _pooled(records: Sequence[Record]) -> Point:
    return points([replace(record, run_id="all") for record in records])[0]


def _map(axes: Axes, cell: Cell, ends: Sequence[float], known: bool) -> list[tuple[str, ...]]:
    """Draws one heat map; returns its rows for the table, the beginning of the video first."""
    bins = DEPTHS if known else 1
    by_place = grid(cell.records, ends)
    share = np.full((bins, len(ends)), math.nan)
    rows = []
    for row in range(bins):
        words = []
        for column in range(len(ends)):
            there = by_place.get((row, column), [])
            if there:
                share[row, column] = 100 * fmean(record.correct or 0.0 for record in there)
                dark = share[row, column] < 55
                axes.text(
                    column,
                    row,
                    f"{share[row, column]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
            words.append(f"{share[row, column]:.0f} ({len(there)})" if there else "-")
        rows.append((f"{100 * row // bins} to {100 * (row + 1) // bins} %", *words))
    axes.imshow(share, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(ends)), [f"{end:g}" for end in ends], fontsize=7)
    axes.set_yticks(
        np.arange(bins + 1) - 0.5, [f"{100 * n // bins}" for n in range(bins + 1)], fontsize=7
    )
    axes.set_xlabel("length (s)", fontsize=8)
    return rows


def _means(axes: Axes, own: Sequence[Cell], systems: Sequence[str]) -> None:
    """Accuracy over all places; below, what others reported."""
    looks = {"all": ("#444444", "p", ""), "none": ("#444444", "h", ""), **LOOKS}
    for place, (cell, name) in enumerate(zip(own, systems, strict=True)):
        p, (colour, marker, _) = cell.point, looks[name]
        value = 100 * p.accuracy
        axes.errorbar(
            value,
            place,
            xerr=[[value - 100 * p.low], [100 * p.high - value]],
            color=colour,
            marker=marker,
            ms=5,
            capsize=2,
            lw=1,
        )
    theirs = reported("haystack")
    names = ("theirs, 32x", "theirs, 2x + 32x", "theirs, 2x + 16x")
    for place, (_, value) in enumerate(theirs.points, start=len(systems)):
        axes.plot(
            value,
            place,
            "o",
            mfc="white",
            mec=GREY,
            ms=5,
            label=theirs.label if place == len(systems) else None,
        )
    axes.set_yticks(
        range(len(systems) + 3),
        [LABELS[n].replace(" chunks (bound)", "") for n in systems] + list(names),
        fontsize=7,
    )
    for tick in axes.get_yticklabels()[len(systems) :]:
        tick.set_color(GREY)
    axes.yaxis.tick_right()
    axes.invert_yaxis()
    axes.set_xlim(0, 104)
    axes.set_xlabel("accuracy, all places (%)", fontsize=8)
    axes.tick_params("x", labelsize=7)


def _finding(
    whole: Mapping[tuple[str, str], Cell],
    methods: Sequence[str],
    ends: Sequence[float],
    tested: Family,
) -> str:
    """Of the shortest and the longest videos, and what the oracle adds.

    Args:
        whole: (compressor, selector) -> cell over all lengths.
        methods: compressors.
        ends: of the columns, see `lengths`.
        tested: oracle against all-high of every compressor.
    """
    told = []
    for method in methods:
        names = [name for name in ("none", "attention", "oracle") if (method, name) in whole]
        cell_of = {name: whole[method, name] for name in names}
        parts = []
        for name, cell in cell_of.items():
            by_length = defaultdict(list)
            for record in cell.records:
                by_length[next(end for end in ends if round(record.duration) <= end)].append(record)
            shares = [
                percent(
                    accuracy(
                        [Outcome(r.sample_id, r.video_id, r.correct or 0.0) for r in by_length[end]]
                    ).value,
                    0,
                )
                for end in (ends[0], ends[-1])
            ]
            parts.append(f"{LABELS[name].replace(' (bound)', '')} {shares[0]} % and {shares[1]} %")
        gap = ""
        if "oracle" in cell_of:
            gap = f" (over all lengths oracle minus all-high {tested.difference(cell_of['oracle'], cell_of['none'])})"
        told.append(f"{method}: {listed(parts)}{gap}")
    p = whole[methods[0], "none"].point
    behind = f"{p.n} questions on {p.videos} videos of all lengths"
    if tested.found:
        behind += f"; {tested.told}"
    return f"At {ends[0]:g} s and {ends[-1]:g} s, {'; '.join(told)}; {behind}."


if __name__ == "__main__":
    main(NAME, make)
