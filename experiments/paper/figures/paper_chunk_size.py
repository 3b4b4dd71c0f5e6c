"""Chunk size: accuracy over KV bytes, one panel a compressor and selector, one line a number of frames.

python -m experiments.paper.figures.paper_chunk_size outputs/paper/sweeps/paper_chunk_size
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, compressors, only, pick
from experiments.paper.kit.drawing import (
    LABELS,
    MARKERS,
    accuracy_axis,
    beside,
    described,
    kv,
    kv_axis,
    legend,
    line,
    panels,
)
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import Family, accuracy, asked, family, marked, percent, stars
from x2l.analysis.figure_style import COLOURS
from x2l.runs.records import Record

NAME = "paper_chunk_size"
REFERENCE = 8  # frames: the default, which others are compared with


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    selectors = [name for name in ("oracle", "attention") if pick(found, selector=name)]
    sizes = sorted({cell.point.chunk_frames for cell in found})
    figure, axes = panels(
        len(methods), len(selectors), width=3.7, height=2.7, below=0.7, sharey=True
    )
    places = [(selector, method) for selector in selectors for method in methods]
    for axis, (selector, method) in zip(axes, places, strict=True):
        looks = zip(sizes, COLOURS, MARKERS, strict=False)
        for place, (size, colour, marker) in enumerate(looks):
            own = pick(found, compressor=method, selector=selector, chunk_frames=size)
            at = beside(kv, place, len(sizes))
            line(axis, own, at, f"{size} frames a chunk", (colour, marker, "-"))
        axis.set_title(f"{method}, {LABELS[selector]}, k = {_ks(found)}")
        kv_axis(axis)
    accuracy_axis(axes, len(methods))
    legend(figure, axes, columns=4)
    described(figure, found)
    told = [
        own
        for method in methods
        for selector in ("oracle", "attention")
        if len(own := same_frames(found, method, selector, max(sizes))) > 1
    ]
    tested = family([*_at_one_k(found), *((own[0], own[-1]) for own in told)])
    return Result(
        "Chunk size",
        figure,
        (_table(found, tested),),
        _finding(found, told, sizes, tested),
        (
            "The authors' stored results hold none by chunk size; the official code has 10 frames a chunk.",
        ),
    )


def _ks(found: Sequence[Cell]) -> str:
    return ", ".join(str(k) for k in sorted({c.point.top_k for c in found if c.point.top_k}))


def same_frames(found: Sequence[Cell], method: str, selector: str, frames: int) -> list[Cell]:
    """The cells that re-load as many frames, by chunk size; of the oracle those of its largest k."""
    own = pick(found, compressor=method, selector=selector)
    if selector == "oracle":
        most = max((cell.point.top_k for cell in own), default=0)
        return sorted(pick(own, top_k=most), key=lambda cell: cell.point.chunk_frames)
    fitting = [cell for cell in own if cell.point.chunk_frames * cell.point.top_k == frames]
    return sorted(fitting, key=lambda cell: cell.point.chunk_frames)


def _at_one_k(found: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """(cell of the default size, cell of another) at as many chunks."""
    others = [cell for cell in found if cell.point.chunk_frames != REFERENCE]
    pairs = []
    for cell in others:
        p = cell.point
        if base := only(
            found,
            compressor=p.compressor,
            selector=p.selector,
            top_k=p.top_k,
            chunk_frames=REFERENCE,
        ):
            pairs.append((base, cell))
    return pairs


def _table(found: Sequence[Cell], tested: Family) -> Table:
    gaps = {id(cell): tested.of(base, cell) for base, cell in _at_one_k(found)}
    rows = []
    for cell in sorted(
        found,
        key=lambda c: (
            c.point.compressor,
            c.point.selector,
            str(c.point.top_k),
            c.point.chunk_frames,
        ),
    ):
        p, gap = cell.point, gaps.get(id(cell))
        told = "-" if gap is None else marked(gap)
        k, recall = ("-", "-") if p.control else (str(p.top_k), percent(p.recall, 0))
        rows.append(
            (
                p.compressor,
                p.control or p.selector,
                k,
                str(p.chunk_frames),
                accuracy(cell),
                recall,
                percent(p.kv_share),
                told,
            )
        )
    header = (
        "compressor",
        "selector",
        "k",
        "frames a chunk",
        "accuracy % (95 %)",
        "recall %",
        "KV bytes %",
        f"against {REFERENCE} frames, points (95 %)",
    )
    shown = stars(len(tested.found), "of this table and the finding")
    caption = f"Accuracy by chunk size at one k, {asked(found[0])}; {shown}"
    return Table(caption, header, tuple(rows), words=2)


def _finding(
    found: Sequence[Cell], lines: Sequence[Sequence[Cell]], sizes: Sequence[int], tested: Family
) -> str:
    """The smallest chunks against the largest.

    Args:
        found: all cells.
        lines: each of one compressor and selector, see `same_frames`.
        sizes: of the chunks, in frames.
        tested: holds the ends of every line.
    """
    told = []
    for own in lines:
        first, last = own[0], own[-1]
        p = first.point
        what = "all true chunks" if p.selector == "oracle" else f"{max(sizes)} frames"
        told.append(
            f"{p.compressor} with {p.selector} ({what} re-loaded) {_of(first)} and {_of(last)}, "
            f"{tested.difference(last, first)}"
        )
    return f"{'; '.join(told)} ({asked(found[0])}; {tested.told})."


def _of(cell: Cell) -> str:
    p = cell.point
    share = percent(p.kv_share)
    return (
        f"{percent(p.accuracy)} % in chunks of {p.chunk_frames} frames ({share} % of the KV bytes)"
    )


if __name__ == "__main__":
    main(NAME, make)
