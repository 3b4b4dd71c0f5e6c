"""Low ratio 2 or 4: accuracy over KV bytes, one panel a compressor.

python -m experiments.paper.figures.paper_low_ratio outputs/paper/sweeps/paper_low_ratio
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, compressors, only, pick
from experiments.paper.kit.drawing import (
    CONTROL,
    LABELS,
    LOOKS,
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
from x2l.runs.records import Record

NAME = "paper_low_ratio"
SELECTORS = ("oracle", "attention", "random")


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    ratios = sorted({cell.point.ratio_low for cell in found})
    figure, axes = panels(len(methods), width=3.8, height=3.1, below=0.9, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        for ratio, hollow, dash in zip(ratios, (False, True), ("-", ":"), strict=False):
            for place, selector in enumerate(SELECTORS):
                own = pick(found, compressor=method, selector=selector, ratio_low=ratio)
                colour, marker, _ = LOOKS[selector]
                label = f"{LABELS[selector]}, low {ratio:g}x"
                line(axis, own, beside(kv, place, 3), label, (colour, marker, dash), hollow)
            own = pick(found, compressor=method, selector="all", ratio_low=ratio)
            line(axis, own, kv, f"all-low {ratio:g}x", (CONTROL, "p", ""), hollow)
        high = pick(found, compressor=method, selector="none", ratio_low=ratios[0])
        line(axis, high, kv, "all-high", (CONTROL, "h", ""))
        axis.set_title(method)
        kv_axis(axis)
    accuracy_axis(axes, len(methods))
    legend(figure, axes, columns=3)
    described(figure, found, f"high {found[0].point.ratio_high:g}x")
    rows = []
    pairs = equal_bytes(found, ratios)
    tested = family(pairs)
    for (two, four), gap in zip(tested.pairs, tested.found, strict=True):
        p, q = two.point, four.point
        rows.append(
            (
                p.compressor,
                p.selector,
                str(p.top_k),
                accuracy(two),
                percent(p.kv_share),
                str(q.top_k),
                accuracy(four),
                percent(q.kv_share),
                marked(gap),
            )
        )
    header = (
        "compressor",
        "selector",
        "k",
        f"low {ratios[0]:g}x, %",
        "KV bytes %",
        "k",
        f"low {ratios[-1]:g}x, %",
        "KV bytes %",
        "difference, points (95 %)",
    )
    caption = f"Twice as many chunks at twice the low ratio, {asked(found[0])}; {stars(len(pairs))}"
    return Result(
        f"Low ratio {' or '.join(f'{ratio:g}' for ratio in ratios)}",
        figure,
        (Table(caption, header, tuple(rows), words=2),),
        _finding(found, tested, ratios),
    )


def equal_bytes(found: Sequence[Cell], ratios: Sequence[float]) -> list[tuple[Cell, Cell]]:
    """(k chunks at the smaller low ratio, twice as many at twice the ratio); the oracle's number is its own."""
    pairs = []
    for two in pick(found, ratio_low=ratios[0]):
        p = two.point
        if p.control or len(ratios) < 2:
            continue
        k = p.top_k if p.selector == "oracle" else p.top_k * ratios[-1] / ratios[0]
        four = only(
            found, compressor=p.compressor, selector=p.selector, ratio_low=ratios[-1], top_k=k
        )
        if four is not None:
            pairs.append((two, four))
    return pairs


def _finding(found: Sequence[Cell], tested: Family, ratios: Sequence[float]) -> str:
    """Of k = 4: the oracle at one k, attention at equal bytes."""
    said = [(a, b) for a, b in tested.pairs if a.point.top_k == 4 and a.point.selector != "random"]
    told = [
        f"{a.point.compressor} with {a.point.selector} {percent(a.point.accuracy)} % (k = {a.point.top_k}, "
        f"{percent(a.point.kv_share)} % of the KV bytes) and {percent(b.point.accuracy)} % (k = {b.point.top_k}, "
        f"{percent(b.point.kv_share)} %), {tested.difference(b, a)}"
        for a, b in said
    ]
    return f"Low {ratios[0]:g}x and {ratios[-1]:g}x: {'; '.join(told)} ({asked(found[0])}; {tested.told})."


if __name__ == "__main__":
    main(NAME, make)
