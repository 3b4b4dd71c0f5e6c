"""Accuracy over the hit rate of a simulated selector: one panel a compressor, one line a high ratio.

The hit rate on the axis is the one that was measured: the share of questions with a ground-truth chunk re-loaded.

python -m experiments.paper.figures.paper_hit_rate outputs/paper/sweeps/paper_hit_rate
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, compressors, only, pick
from experiments.paper.kit.drawing import (
    accuracy_axis,
    described,
    legend,
    level,
    line,
    panels,
    sourced,
)
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.sourced import sourced as reported
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import accuracy, asked, family, marked, percent, stars
from x2l.analysis.figure_style import COLOURS
from x2l.runs.records import Record

NAME = "paper_hit_rate"


def simulated(found: Sequence[Cell], compressor: str, ratio: float) -> list[Cell]:
    """The simulated selectors in order of their hit rate; all-high stands for no hit at all."""
    own = pick(found, compressor=compressor, ratio_high=ratio)
    line = [c for c in own if c.point.selector.startswith("hit_rate") or c.point.selector == "none"]
    return sorted(line, key=lambda cell: hit(cell.point))


def hit(point) -> float:
    """Measured hit rate in per cent; 0 for all-high."""
    return 0.0 if point.selector == "none" else 100 * point.hit


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    ratios = sorted({cell.point.ratio_high for cell in found})
    theirs = reported("hit_rate")
    figure, axes = panels(len(methods), width=3.7, height=3.0, below=1.0, sharey=True)
    of_line = {(m, ratio): simulated(found, m, ratio) for m in methods for ratio in ratios}
    # Every other hit rate of a line against its lowest.
    tested = family([(own[0], cell) for own in of_line.values() for cell in own[1:]])
    rows, told = [], []
    for axis, method in zip(axes, methods, strict=True):
        for ratio, colour, marker in zip(ratios, COLOURS, "os^D", strict=False):
            own = of_line[method, ratio]
            line(axis, own, hit, f"H-KVs {ratio:g}x", (colour, marker, "-"))
            for cell in own:
                gap = tested.of(own[0], cell)
                rows.append(
                    (
                        method,
                        f"{ratio:g}x",
                        f"{hit(cell.point):.0f}",
                        accuracy(cell),
                        percent(cell.point.kv_share),
                        "-" if gap is None else marked(gap),
                    )
                )
        level(
            axis, only(found, compressor=method, selector="all", ratio_high=ratios[-1]), "all-low"
        )
        sourced(axis, theirs)
        axis.set_title(method)
        axis.set_xlabel("hit rate: questions with a\nground-truth chunk re-loaded (%)")
        own = of_line[method, ratios[-1]]
        first, last = own[0], own[-1]
        if first is not last:
            told.append(
                f"{method} goes from {percent(first.point.accuracy)} % at hit rate {hit(first.point):.0f} % to "
                f"{percent(last.point.accuracy)} % at {hit(last.point):.0f} %, {tested.difference(last, first)}"
            )
    accuracy_axis(axes, len(methods))
    legend(figure, axes, columns=2)
    described(figure, found)
    header = (
        "compressor",
        "high ratio",
        "hit rate %",
        "accuracy % (95 %)",
        "KV bytes %",
        "against the lowest, points (95 %)",
    )
    finding = (
        f"With H-KVs at {ratios[-1]:g}x, {'; '.join(told)} ({asked(found[0])}; {tested.told})."
        if told
        else "No simulated selector was run: the set does not say where answers lie."
    )
    return Result(
        "Accuracy against hit rate",
        figure,
        (
            Table(
                f"Accuracy by hit rate of a simulated selector, {asked(found[0])}; {stars(len(tested.found))}",
                header,
                tuple(rows),
                words=2,
            ),
        ),
        finding,
        (theirs.told,),
    )


if __name__ == "__main__":
    main(NAME, make)
