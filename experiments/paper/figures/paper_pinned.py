"""First and last chunk always re-loaded or not, over the number of chunks re-loaded in all: one panel a compressor.

python -m experiments.paper.figures.paper_pinned outputs/paper/sweeps/paper_pinned
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, comparisons, compressors, only, pick
from experiments.paper.kit.drawing import (
    LABELS,
    LOOKS,
    accuracy_axis,
    beside,
    described,
    kv,
    kv_axis,
    legend,
    level,
    line,
    panels,
)
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import accuracy, asked, marked, name_of, percent, spread, stars
from x2l.runs.records import Record

NAME = "paper_pinned"
OFF, ON = "", "first+last"


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    figure, axes = panels(len(methods), width=3.8, height=3.1, below=0.9, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        for pinned, words, hollow, dash in (
            (OFF, "", False, "-"),
            (ON, ", ends pinned", True, ":"),
        ):
            for place, selector in enumerate(("oracle", "attention", "random")):
                own = pick(found, compressor=method, selector=selector, pinned=pinned)
                colour, marker, _ = LOOKS[selector]
                look = (colour, marker, dash)
                line(axis, own, beside(kv, place, 3), LABELS[selector] + words, look, hollow)
        high = pick(found, compressor=method, selector="none")
        level(axis, high[0] if high else None, "all-high", ":")
        axis.set_title(method)
        kv_axis(axis)
    accuracy_axis(axes, len(methods))
    legend(figure, axes, columns=3)
    described(figure, found)
    pairs = equal_bytes(found)
    gaps = comparisons(pairs)
    rows = []
    for (off, on), gap in zip(pairs, gaps, strict=True):
        p, q = off.point, on.point
        rows.append(
            (
                p.compressor,
                p.selector,
                str(p.top_k),
                accuracy(off),
                percent(p.kv_share),
                str(q.top_k),
                accuracy(on),
                percent(q.kv_share),
                marked(gap),
            )
        )
    header = (
        "compressor",
        "selector",
        "k",
        "off, %",
        "KV bytes %",
        "k",
        "first and last on top, %",
        "KV bytes %",
        "difference, points (95 %)",
    )
    caption = f"Pinned ends against two more chunks of the selector's, {asked(found[0])}; {stars(len(pairs))}"
    return Result(
        "First and last chunk pinned, on and off",
        figure,
        (Table(caption, header, tuple(rows), words=2),),
        _finding(found, pairs),
        (
            "The oracle has none but true chunks to offer: there, both have one k and the pinned side more bytes.",
        )
        if pick(found, selector="oracle")
        else (),
    )


def equal_bytes(found: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """(k + 2 chunks, k chunks and both ends); for the oracle k on both sides."""
    pairs = []
    for on in pick(found, pinned=ON):
        p = on.point
        k = p.top_k if p.selector == "oracle" else p.top_k + 2
        off = only(found, compressor=p.compressor, selector=p.selector, pinned=OFF, top_k=k)
        if off is not None:
            pairs.append((off, on))
    return pairs


def _finding(found: Sequence[Cell], pairs: Sequence[tuple[Cell, Cell]]) -> str:
    oracle = " (oracle: against none)" if pick(found, selector="oracle") else ""
    return f"Both ends pinned against two more chunks{oracle}, {spread(pairs, name_of)} ({asked(found[0])})."


if __name__ == "__main__":
    main(NAME, make)
