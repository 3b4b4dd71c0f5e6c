"""Positions kept or closed up, in one pass and in two: accuracy, one panel a compressor.

python -m experiments.paper.figures.paper_positions outputs/paper/sweeps/paper_positions
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.by_setting import at, marks
from experiments.paper.kit.cells import Cell, cells, comparisons, compressors
from experiments.paper.kit.drawing import accuracy_axis, described, legend, panels
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import accuracy, asked, marked, spread, stars
from x2l.analysis.points import Point
from x2l.runs.records import Record

NAME = "paper_positions"
CELLS = {"all": "all-low", "none": "all-high", "oracle": "oracle", "attention": "attention"}


def setting(point: Point) -> str:
    """Context and positions of a point, as a column of the figure."""
    return f"{point.context}\n{point.positions}"


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    there = {setting(cell.point) for cell in found}
    wanted = [
        f"{context}\n{positions}"
        for context in ("full", "own")
        for positions in ("keep", "compact")
    ]
    settings = [name for name in wanted if name in there]
    figure, axes = panels(len(methods), width=3.6, height=3.0, below=0.7, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        marks(axis, found, method, settings, setting)
        axis.set_xlabel("context, positions")
    accuracy_axis(axes, len(methods))
    legend(figure, axes, columns=4)
    described(figure, found)
    pairs = [
        (keep, compact)
        for method in methods
        for context in ("full", "own")
        for name in CELLS
        if (keep := at(found, method, name, context=context, positions="keep"))
        and (compact := at(found, method, name, context=context, positions="compact"))
    ]
    rows = []
    for (keep, compact), gap in zip(pairs, comparisons(pairs), strict=True):
        p = keep.point
        rows.append(
            (
                p.compressor,
                p.context,
                CELLS[p.selector],
                accuracy(keep),
                accuracy(compact),
                marked(gap),
            )
        )
    header = ("compressor", "context", "cell", "keep, %", "compact, %", "difference, points (95 %)")
    caption = f"Positions, {asked(found[0])}; compact minus keep; {stars(len(pairs))}"
    return Result(
        "Positions: keep or compact",
        figure,
        (Table(caption, header, tuple(rows), words=3),),
        _finding(found, pairs),
        ("x2l_tiny was trained on videos of one frame a second with their true positions.",)
        if found[0].point.model == "x2l_tiny"
        else (),
    )


def _finding(found: Sequence[Cell], pairs: Sequence[tuple[Cell, Cell]]) -> str:
    def name(cell: Cell) -> str:
        return f"{CELLS[cell.point.selector]} in context {cell.point.context}"

    return f"Compact against keep, {spread(pairs, name)} ({asked(found[0])})."


if __name__ == "__main__":
    main(NAME, make)
