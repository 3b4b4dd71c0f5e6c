"""Accuracy over the base (high) ratio, with and without the ground-truth chunks re-loaded: one panel a compressor.

python -m experiments.paper.figures.paper_base_ratio outputs/paper/sweeps/paper_base_ratio
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, compressors, only, pick
from experiments.paper.kit.drawing import accuracy_axis, described, legend, line, panels, sourced
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.sourced import sourced as reported
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import Family, accuracy, asked, family, marked, percent, stars
from x2l.analysis.figure_style import COLOURS
from x2l.runs.records import Record

NAME = "paper_base_ratio"
WAYS = {
    "none": ("without", (COLOURS[1], "s", "-")),
    "oracle": ("with ground-truth chunks at the low ratio", (COLOURS[2], "o", "-")),
}


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    ratios = sorted({cell.point.ratio_high for cell in found})
    theirs = [reported("base_ratio_with"), reported("base_ratio_without")]
    figure, axes = panels(len(methods), width=3.7, height=3.0, below=1.0, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        for selector, (label, look) in WAYS.items():
            own = pick(found, compressor=method, selector=selector)
            line(axis, own, lambda p: p.ratio_high, label, look)
        for series, marker in zip(theirs, "os", strict=True):
            sourced(axis, series, marker)
        axis.set_title(method)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        axis.minorticks_off()
        axis.set_xlabel("base ratio (tokens in / tokens out)")
    accuracy_axis(axes, len(methods))
    legend(figure, axes, columns=2)
    described(figure, found, f"low {found[0].point.ratio_low:g}x")
    pairs = {(m, r): pair for m in methods for r in ratios if (pair := _pair(found, m, r))}
    tested = family(list(pairs.values()))
    return Result(
        "Base ratio, with and without ground-truth chunks",
        figure,
        (_table(found, methods, ratios, tested),),
        _finding(found, methods, tested),
        tuple(series.told for series in theirs),
    )


def _pair(found: Sequence[Cell], method: str, ratio: float) -> tuple[Cell, Cell] | None:
    """(without, with) at a base ratio."""
    both = [only(found, compressor=method, ratio_high=ratio, selector=name) for name in WAYS]
    return None if None in both else (both[0], both[1])


def _table(
    found: Sequence[Cell], methods: Sequence[str], ratios: Sequence[float], tested: Family
) -> Table:
    rows = []
    for method in methods:
        for ratio in ratios:
            without = only(found, compressor=method, ratio_high=ratio, selector="none")
            if without is None:
                continue
            row = [method, f"{ratio:g}x", accuracy(without), percent(without.point.kv_share)]
            if (pair := _pair(found, method, ratio)) and (gap := tested.of(*pair)):
                row += [
                    accuracy(pair[1]),
                    percent(pair[1].point.kv_share),
                    marked(gap),
                ]
            rows.append((*row, *["-"] * (7 - len(row))))
    header = (
        "compressor",
        "base ratio",
        "without %",
        "KV bytes %",
        "with %",
        "KV bytes %",
        "difference, points (95 %)",
    )
    caption = f"Accuracy by base ratio, {asked(found[0])}; {stars(len(tested.found))}"
    return Table(caption, header, tuple(rows), words=1)


def _finding(found: Sequence[Cell], methods: Sequence[str], tested: Family) -> str:
    told = []
    for method in methods:
        ends = [pair for ratio in (4, 32) if (pair := _pair(found, method, ratio))]
        for without, re_loaded in ends:
            told.append(
                f"{method} at {without.point.ratio_high:g}x {percent(without.point.accuracy)} % without and "
                f"{percent(re_loaded.point.accuracy)} % with, {tested.difference(re_loaded, without)}"
            )
    if not told:
        own = [
            f"{c.point.compressor} {c.point.ratio_high:g}x {percent(c.point.accuracy)} %"
            for c in found
        ]
        return f"Where answers lie is not known here; without their chunks: {', '.join(own)} ({asked(found[0])})."
    return f"{'; '.join(told)} ({asked(found[0])}; {tested.told})."


if __name__ == "__main__":
    main(NAME, make)
