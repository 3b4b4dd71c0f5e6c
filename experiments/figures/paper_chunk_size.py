"""Chunk size: accuracy over KV bytes, one panel a compressor and selector, one line a number of frames.

python -m experiments.figures.paper_chunk_size outputs/paper/sweeps/paper_chunk_size
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.figures.cells import Cell, cells, comparisons, compressors, only, pick
from experiments.figures.drawing import (
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
from experiments.figures.output import Result, main
from experiments.figures.tables import Table
from experiments.figures.words import accuracy, asked, differences, marked, percent, stars
from x2l.records import Record
from x2l.style import COLOURS

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
    return Result(
        "Chunk size",
        figure,
        (_table(found),),
        _finding(found, methods, sizes),
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


def _table(found: Sequence[Cell]) -> Table:
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
    gaps = {id(cell): gap for (_, cell), gap in zip(pairs, comparisons(pairs), strict=True)}
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
    caption = f"Accuracy by chunk size at one k, {asked(found[0])}; {stars(len(pairs))}"
    return Table(caption, header, tuple(rows), words=2)


def _finding(found: Sequence[Cell], methods: Sequence[str], sizes: Sequence[int]) -> str:
    told = []
    for method in methods:
        for selector in ("oracle", "attention"):
            own = same_frames(found, method, selector, max(sizes))
            if len(own) < 2:
                continue
            first, last = own[0], own[-1]
            what = "all true chunks" if selector == "oracle" else f"{max(sizes)} frames"
            gap = differences([(last, first)])[0]
            told.append(
                f"{method} with {selector} ({what} re-loaded) {_of(first)} and {_of(last)}, {gap}"
            )
    return f"{'; '.join(told)} ({asked(found[0])})."


def _of(cell: Cell) -> str:
    p = cell.point
    share = percent(p.kv_share)
    return (
        f"{percent(p.accuracy)} % in chunks of {p.chunk_frames} frames ({share} % of the KV bytes)"
    )


if __name__ == "__main__":
    main(NAME, make)
