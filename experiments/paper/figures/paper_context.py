"""What later chunks attend to in pre-fill: one pass (full, low, high) against one pass a level (own, the paper's).

python -m experiments.paper.figures.paper_context outputs/paper/sweeps/paper_context
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from experiments.paper.kit.by_setting import at, marks
from experiments.paper.kit.cells import Cell, cells, compressors, pick
from experiments.paper.kit.drawing import accuracy_axis, described, legend, panels
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import Family, accuracy, asked, family, marked, percent, stars
from x2l.analysis.figure_style import COLOURS
from x2l.runs.records import Record

NAME = "paper_context"
CONTEXTS = ("full", "low", "high", "own")
CELLS = ("all", "none", "oracle", "attention")


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    contexts = [name for name in CONTEXTS if pick(found, context=name)]
    figure, axes = panels(len(methods) + 1, width=3.1, height=3.0, below=0.7)
    for axis, method in zip(axes, methods, strict=False):
        marks(axis, found, method, contexts, lambda p: p.context)
        axis.set_xlabel("context (own: two passes)")
    accuracy_axis(axes[: len(methods)], 1)
    last, width = axes[-1], 0.8 / len(methods)
    for shift, (method, colour) in enumerate(
        zip(methods, (COLOURS[4], COLOURS[5], *COLOURS), strict=False)
    ):
        at_x = [place + width * (shift - (len(methods) - 1) / 2) for place in range(len(contexts))]
        height = [decoder(_any(found, method, name)) for name in contexts]
        bars = last.bar(at_x, height, width, color=colour, label=f"GFLOPs, {method}")
        last.bar_label(bars, fmt="%.2f", fontsize=6.5)
    last.set_xticks(range(len(contexts)), contexts)
    last.set_ylabel("decoder GFLOPs of one video's pre-fill")
    last.set_title("compute")
    legend(figure, axes, columns=5)
    described(figure, found)
    tested = family(
        [
            (own, cell)
            for method in methods
            for name in CELLS
            if (own := at(found, method, name, context="own"))
            for context in contexts
            if (cell := at(found, method, name, context=context)) and cell is not own
        ]
    )
    return Result(
        "One pass for both levels against two (own)",
        figure,
        (_table(found, methods, contexts, tested),),
        _finding(found, methods, tested),
        (
            "Seconds are medians over videos, of vision, decoder and compression; make paper runs two at once.",
        ),
    )


def _any(found: Sequence[Cell], method: str, context: str) -> Cell:
    return pick(found, compressor=method, context=context)[0]


def decoder(cell: Cell) -> float:
    """GFLOPs of the decoder's pre-fill of a video."""
    return sum(record.flops_prefill for record in cell.records) / len(cell.records) * 1e-9


def seconds(cell: Cell) -> float:
    """Median seconds of a video's pre-fill: vision, decoder, compression."""
    by_video = {
        r.video_id: r.seconds_vision + r.seconds_prefill + r.seconds_compression
        for r in cell.records
    }
    return median(by_video.values())


def _table(
    found: Sequence[Cell], methods: Sequence[str], contexts: Sequence[str], tested: Family
) -> Table:
    there = [name for name in CELLS if pick(found, selector=name)]
    gaps = {id(cell): tested.of(own, cell) for own, cell in tested.pairs}
    rows = []
    for method in methods:
        for context in contexts:
            told = []
            for name in there:
                cell = at(found, method, name, context=context)
                gap = gaps.get(id(cell))
                told.append("-" if cell is None else accuracy(cell))
                told.append("-" if gap is None else marked(gap))
            any_cell = _any(found, method, context)
            rows.append(
                (method, context, f"{decoder(any_cell):.2f}", f"{seconds(any_cell):.2f}", *told)
            )
    columns = [part for name in there for part in (f"{_word(name)} %", "against own")]
    header = ("compressor", "context", "decoder GFLOPs", "seconds", *columns)
    caption = f"Contexts, {asked(found[0])}; differences in points; {stars(len(tested.found))}"
    return Table(caption, header, tuple(rows), words=2)


def _word(selector: str) -> str:
    return {"all": "all-low", "none": "all-high"}.get(selector, selector)


def _finding(found: Sequence[Cell], methods: Sequence[str], tested: Family) -> str:
    told = []
    for method in methods:
        for name in CELLS[1:]:
            one, two = (
                at(found, method, name, context="full"),
                at(found, method, name, context="own"),
            )
            if one and two:
                told.append(
                    f"{method} {_word(name)} {percent(one.point.accuracy)} % in one pass (full) and "
                    f"{percent(two.point.accuracy)} % in two (own), {tested.difference(one, two)}"
                )
    if not told:
        return f"Only {', '.join(sorted({c.point.context for c in found}))} was run ({asked(found[0])})."
    share = decoder(_any(found, methods[0], "full")) / decoder(_any(found, methods[0], "own"))
    behind = f"{asked(found[0])}; {tested.told}"
    return f"One pass takes {percent(share, 0)} % of the decoder FLOPs of two; {'; '.join(told)} ({behind})."


if __name__ == "__main__":
    main(NAME, make)
