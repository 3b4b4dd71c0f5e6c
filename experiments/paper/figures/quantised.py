"""Accuracy over KV bytes as stored: one panel a compressor, one line a form of storage.

x2l -m experiment=quantised
python -m experiments.paper.figures.quantised outputs/sweeps/quantised
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, comparisons, compressors
from experiments.paper.kit.drawing import (
    accuracy_axis,
    described,
    kv,
    kv_axis,
    legend,
    line,
    panels,
)
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import accuracy, asked, marked, percent, spread, stars
from x2l.analysis.figure_style import COLOURS
from x2l.analysis.points import Point
from x2l.runs.records import Record

NAME = "quantised"
LOOKS = {
    "as they are": (COLOURS[0], "o", "-"),
    "int8": (COLOURS[2], "s", "-"),
    "int4": (COLOURS[1], "^", "-"),
}


def form(point: Point) -> tuple[str, str]:
    """(compressor, form of storage) of a point, whose name joins them by a hyphen."""
    name, _, codec = point.compressor.partition("-")
    return name, codec or "as they are"


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    names = sorted({name.partition("-")[0] for name in compressors(found)})
    figure, axes = panels(len(names), width=3.3, height=3.0, below=0.6, sharey=True)
    for axis, name in zip(axes, names, strict=True):
        for codec, look in LOOKS.items():
            own = [cell for cell in found if form(cell.point) == (name, codec)]
            line(axis, own, kv, codec, look)
        axis.set_title(name)
        kv_axis(axis)
        axis.set_xlabel("KV bytes as stored (% of full)")
    accuracy_axis(axes, len(names))
    legend(figure, axes, columns=3)
    ratios = sorted({cell.point.ratio_high for cell in found})
    described(figure, found, f"all chunks at {', '.join(f'{ratio:g}x' for ratio in ratios)}")
    pairs = [(plain, cell) for cell in found if (plain := _unquantised(found, cell))]
    gaps = {id(cell): gap for (_, cell), gap in zip(pairs, comparisons(pairs), strict=True)}
    rows = []
    for cell in found:
        gap = gaps.get(id(cell))
        told = "-" if gap is None else marked(gap)
        p = cell.point
        rows.append((*form(p), f"{p.ratio_high:g}x", accuracy(cell), percent(p.kv_share), told))
    header = (
        "compressor",
        "stored",
        "ratio",
        "accuracy % (95 %)",
        "KV bytes %",
        "against as they are, points (95 %)",
    )
    caption = f"Fewer KVs or fewer bits, {asked(found[0])}; {stars(len(pairs))}"
    return Result(
        "Fewer KVs or fewer bits",
        figure,
        (Table(caption, header, tuple(rows), words=2),),
        f"Quantised against as they are, {spread(pairs, _told)} ({asked(found[0])}).",
    )


def _told(cell: Cell) -> str:
    return f"{cell.point.ratio_high:g}x"


def _unquantised(found: Sequence[Cell], cell: Cell) -> Cell | None:
    """The cell whose KVs are stored as they are, at the same ratio."""
    name, codec = form(cell.point)
    plain = [
        other
        for other in found
        if form(other.point) == (name, "as they are")
        and other.point.ratio_high == cell.point.ratio_high
    ]
    return plain[0] if plain and codec != "as they are" else None


if __name__ == "__main__":
    main(NAME, make)
