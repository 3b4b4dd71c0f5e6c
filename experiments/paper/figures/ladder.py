"""Two levels or three: accuracy over KV bytes at equal budgets, one panel a compressor.

x2l -m experiment=ladder
x2l -m experiment=ladder selector=none levels.high.ratio=8 levels.mid=null   # every chunk at the level between
python -m experiments.paper.figures.ladder outputs/sweeps/ladder
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, comparisons, compressors, only, pick
from experiments.paper.kit.drawing import (
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
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import LEVEL, accuracy, asked, marked, percent, stars
from x2l.runs.records import Record

NAME = "ladder"
SELECTORS = ("oracle", "attention", "random")


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence.

    Raises:
        ValueError: no run has a level between, or runs have several.
    """
    found = cells(records)
    methods = compressors(found)
    levels = sorted({cell.point.between for cell in found} - {""})
    if not levels:
        raise ValueError(
            "records: no run has a level between; run `x2l -m experiment=ladder` as well"
        )
    if len(levels) > 1:
        raise ValueError(
            f"records: of several levels between ({', '.join(levels)}); give each a folder of its own "
            "(hydra.sweep.dir=)"
        )
    (between,) = levels
    most = max(cell.point.ratio_high for cell in found)
    middle = [
        cell for cell in found if cell.point.ratio_high < most
    ]  # every chunk at the level between
    found = [cell for cell in found if cell.point.ratio_high == most]
    figure, axes = panels(len(methods), width=3.8, height=3.1, below=0.9, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        for selector in SELECTORS:
            colour, marker, _ = LOOKS[selector]
            for words, hollow, dash in (("", True, ":"), (between, False, "-")):
                own = pick(found, compressor=method, selector=selector, between=words)
                label = f"{LABELS[selector]}, {'three' if words else 'two'} levels"
                line(axis, own, kv, label, (colour, marker, dash), hollow)
        alone = pick(middle, compressor=method)
        line(axis, alone, kv, f"all at {between.split()[-1]}", ("black", "*", ""))
        level(axis, only(found, compressor=method, selector="all", between=""), "all-low", ":")
        level(axis, only(found, compressor=method, selector="none", between=""), "all-high")
        axis.set_title(method)
        kv_axis(axis)
    accuracy_axis(axes, len(methods))
    legend(figure, axes, columns=3)
    first = found[0].point
    described(figure, found, f"low {first.ratio_low:g}x, {between}, high {first.ratio_high:g}x")
    pairs = at_equal_budgets(found)
    gaps = comparisons(pairs)
    rows = []
    for (two, three), gap in zip(pairs, gaps, strict=True):
        p = three.point
        shares = (percent(two.point.kv_share), percent(p.kv_share))
        told = (accuracy(two), accuracy(three), marked(gap))
        rows.append((p.compressor, p.selector, str(p.top_k), *shares, *told))
    header = (
        "compressor",
        "selector",
        "budget",
        "KV bytes %, two",
        "three",
        "accuracy %, two levels",
    )
    header = (*header, "three levels", "difference, points (95 %)")
    caption = f"Three levels against two at equal budgets, {asked(found[0])}; {stars(len(pairs))}"
    for cell in middle:
        p = cell.point
        share = percent(p.kv_share)
        rows.append(
            (p.compressor, f"all at {p.ratio_high:g}x", "-", share, "-", accuracy(cell), "-", "-")
        )
    table = Table(caption, header, tuple(rows), words=3)
    return Result("Two levels or three at equal bytes", figure, (table,), _finding(pairs, gaps))


def at_equal_budgets(found: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """(two levels, three levels) of the same compressor, selector and budget."""
    pairs = []
    for three in found:
        p = three.point
        if p.between and not p.control:
            same = {"compressor": p.compressor, "selector": p.selector, "top_k": p.top_k}
            if (two := only(found, between="", **same)) is not None:
                pairs.append((two, three))
    return pairs


def _finding(pairs: Sequence[tuple[Cell, Cell]], gaps: Sequence) -> str:
    """How often and how far the two differ."""
    told = []
    for selector in SELECTORS:
        own = [
            (gap, three.point)
            for (_, three), gap in zip(pairs, gaps, strict=True)
            if three.point.selector == selector
        ]
        if not own:
            continue  # that selector was not run
        better = [gap for gap, _ in own if gap.p_holm < LEVEL and gap.headline.value > 0]
        worse = [gap for gap, _ in own if gap.p_holm < LEVEL and gap.headline.value < 0]
        mean = sum(gap.headline.value for gap, _ in own) / len(own)
        told.append(
            f"with {LABELS[selector]} three levels are better in {len(better)} and worse in {len(worse)} of {len(own)} "
            f"pairs (mean {100 * mean:+.1f} points)"
        )
    if not told:
        return (
            "No selector was run at 1 budget with two levels and with three: nothing is compared."
        )
    return (
        f"At equal budgets of KV bytes, {'; '.join(told)} (p < {LEVEL:g}, Holm over {len(gaps)})."
    )


if __name__ == "__main__":
    main(NAME, make)
