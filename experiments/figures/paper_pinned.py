"""First and last chunk always re-loaded or not, over the number of chunks re-loaded in all: one panel a compressor.

python -m experiments.figures.paper_pinned outputs/paper/sweeps/paper_pinned
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.figures.cells import Cell, cells, comparisons, compressors, only, pick
from experiments.figures.drawing import (
    LABELS,
    LOOKS,
    accuracy_axis,
    described,
    kv,
    kv_axis,
    legend,
    level,
    line,
    panels,
)
from experiments.figures.output import Result, main
from experiments.figures.tables import Table
from experiments.figures.words import accuracy, asked, differences, percent, points_of
from x2l.records import Record

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
            for selector in ("oracle", "attention", "random"):
                own = pick(found, compressor=method, selector=selector, pinned=pinned)
                colour, marker, _ = LOOKS[selector]
                line(axis, own, kv, LABELS[selector] + words, (colour, marker, dash), hollow)
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
        mark = "*" if gap.p_holm < 0.05 else ""
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
                points_of(gap) + mark,
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
    caption = f"Pinned ends against two more chunks of the selector's, {asked(found[0])}; * p < 0.05, Holm over the {len(pairs)} of this table"
    return Result(
        "First and last chunk pinned, on and off",
        figure,
        (Table(caption, header, tuple(rows), words=2),),
        _finding(found, pairs),
        (
            "The oracle has no further chunks to offer than the true ones: there, both sides have the same k and the pinned side has more bytes.",
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
    said = [(off, on) for off, on in pairs if on.point.top_k == 3]
    gaps = differences([(on, off) for off, on in said])
    told = [
        f"{on.point.compressor} with {on.point.selector} {percent(on.point.accuracy)} % and {percent(off.point.accuracy)} % without (k = {off.point.top_k}), {gap}"
        for (off, on), gap in zip(said, gaps, strict=True)
    ]
    return f"With both ends pinned on top of k = 3, {'; '.join(told)} ({asked(found[0])})."


if __name__ == "__main__":
    main(NAME, make)
