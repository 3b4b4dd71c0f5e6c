"""Main table: full KVs, all-low, all-high, X²L at k = 1..5, and the controls that spend as much.

python -m experiments.paper.figures.paper_main outputs/paper/sweeps/paper_main
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, compressors, full, only, pick
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
    level,
    line,
    panels,
    sourced,
)
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.sourced import sourced as reported
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import (
    Family,
    accuracy,
    asked,
    family,
    listed,
    marked,
    percent,
    stars,
)
from x2l.analysis.figure_style import COLOURS
from x2l.analysis.points import ALL_HIGH, ALL_LOW
from x2l.runs.records import Record

NAME = "paper_main"
ONE_PASS = {"context": "full", "positions": "keep", "pinned": ""}
OFFICIAL = {"context": "own", "positions": "compact"}
PRUNED = ("random", "uniform")  # compressors of the controls at equal ratios
CHOOSING = ("attention", "oracle")
WHY = (
    "Compressors: at 32x tome keeps little of what needle asks for and kmeans most of it (experiments/LOG.md), so the "
    "two show re-loading where it has much and where it has little to add."
)
K = 3  # that the finding is about: the official code's default


def make(records: Sequence[Record]) -> Result:
    """Figure, two tables and a sentence."""
    found = cells(records)
    methods = [name for name in compressors(found) if name not in PRUNED] or compressors(found)
    methods = [name for name in methods if pick(found, compressor=name, selector="none")]
    figure, axes = panels(len(methods), 2, width=3.9, height=3.0, below=1.1, sharey=True)
    over_bytes, over_k = axes[: len(methods)], axes[len(methods) :]
    theirs, theirs_by_k = reported("video_xl_mlvu"), reported("video_xl_2_by_k")
    for axis, method in zip(over_bytes, methods, strict=True):
        for place, selector in enumerate(("oracle", "attention", "random")):
            own = pick(found, compressor=method, selector=selector, **ONE_PASS)
            line(axis, own, beside(kv, place, 5), LABELS[selector], LOOKS[selector])
        fewer = pick(found, selector="fewer_frames", context="full")
        line(axis, fewer, beside(kv, 3, 5), "fewer frames, uncompressed", LOOKS["fewer_frames"])
        pruned = pick(found, compressor="random", selector="attention", context="full")
        look = (COLOURS[3], "D", "-.")
        line(axis, pruned, beside(kv, 4, 5), "attention, random pruning", look)
        for control, marker in ((ALL_LOW, "p"), (ALL_HIGH, "h")):
            name = {ALL_LOW: "all", ALL_HIGH: "none"}[control]
            at = pick(found, compressor=method, selector=name, context="full")
            line(axis, at, kv, control, (CONTROL, marker, ""))
        level(axis, full(found), "full KVs")
        sourced(axis, theirs)
        axis.set_title(method)
        kv_axis(axis)
    for axis, method in zip(over_k, methods, strict=True):
        for place, selector in enumerate(CHOOSING):
            colour, marker, _ = LOOKS[selector]
            own = pick(found, compressor=method, selector=selector, **ONE_PASS)
            over = beside(lambda p: p.top_k, 2 * place, 4, log=False)
            line(axis, own, over, LABELS[selector], LOOKS[selector])
            official = pick(found, compressor=method, selector=selector, **OFFICIAL)
            label = f"{LABELS[selector]}, official settings"
            over = beside(lambda p: p.top_k, 2 * place + 1, 4, log=False)
            line(axis, official, over, label, (colour, marker, ":"), hollow=True)
        sourced(axis, theirs_by_k, "s")
        axis.set_xlabel("k: chunks re-loaded")
        axis.set_xticks(range(1, 6))
    accuracy_axis(axes, len(methods))
    legend(figure, axes)
    described(figure, found)
    tested = family(_pairs(found, methods))
    return Result(
        "Main table: X²L against full, all-low, all-high and controls at equal compute",
        figure,
        (_cells_table(found), _differences_table(found, methods, tested)),
        _finding(found, methods, tested),
        (
            "Official settings: one pass a level, compact positions, chunks of 10 frames, both ends on top of k.",
            *(WHY,) * (found[0].point.benchmark == "needle"),
            theirs.told,
            theirs_by_k.told,
        ),
    )


def _cells_table(found: Sequence[Cell]) -> Table:
    rows = []
    for cell in sorted(found, key=_place):
        p = cell.point
        settings = "" if p.context == "full" else "official"
        name = "-" if p.control == "full" or p.selector == "fewer_frames" else p.compressor
        rows.append(
            (
                name,
                p.control or LABELS.get(p.selector, p.selector),
                settings,
                "-" if p.top_k is None or p.control else str(p.top_k),
                accuracy(cell),
                percent(p.kv_share),
                "-" if p.control else percent(p.recall, 0),
                f"{p.flops_next * 1e-6:.0f}",
            )
        )
    header = (
        "compressor",
        "method",
        "settings",
        "k",
        "accuracy % (95 %)",
        "KV bytes %",
        "recall %",
        "MFLOPs of one more question",
    )
    return Table(f"Accuracy and compute, {asked(found[0])}", header, tuple(rows), words=3)


def _place(cell: Cell) -> tuple[object, ...]:
    p = cell.point
    order = ["full", "all-low", "all-high", "attention", "oracle", "random", "fewer_frames"]
    rank = order.index(p.control or p.selector) if (p.control or p.selector) in order else 9
    control = p.compressor in PRUNED or p.selector == "fewer_frames"
    return p.control != "full", control, p.compressor, p.context != "full", rank, str(p.top_k)


def rivals(found: Sequence[Cell], method: str, selector: str, k: int | str) -> dict[str, Cell]:
    """What a cell is compared with: controls of equal bytes, and all-high."""
    wanted = {
        "all-high": {"compressor": method, "selector": "none"},
        "random chunks": {"compressor": method, "selector": "random", "top_k": k},
        "fewer frames": {"selector": "fewer_frames", "top_k": k},
        "random pruning": {"compressor": "random", "selector": selector, "top_k": k},
        "uniform pruning": {"compressor": "uniform", "selector": selector, "top_k": k},
    }
    there = {name: only(found, context="full", **fields) for name, fields in wanted.items()}
    return {name: cell for name, cell in there.items() if cell is not None}


def _compared(
    found: Sequence[Cell], methods: Sequence[str]
) -> list[tuple[str, Cell, dict[str, Cell]]]:
    """(method, cell, its rivals) of everything that chooses."""
    return [
        (method, cell, rivals(found, method, selector, cell.point.top_k))
        for method in methods
        for selector in CHOOSING
        for cell in pick(found, compressor=method, selector=selector, **ONE_PASS)
    ]


def _pairs(found: Sequence[Cell], methods: Sequence[str]) -> list[tuple[Cell, Cell]]:
    return [
        (other, cell) for _, cell, others in _compared(found, methods) for other in others.values()
    ]


def _differences_table(found: Sequence[Cell], methods: Sequence[str], tested: Family) -> Table:
    names = ("all-high", "random chunks", "fewer frames", "random pruning", "uniform pruning")
    rows = []
    for method, cell, others in _compared(found, methods):
        gaps = [tested.of(others[name], cell) if name in others else None for name in names]
        marks = ["-" if gap is None else marked(gap) for gap in gaps]
        rows.append((method, cell.point.selector, str(cell.point.top_k), *marks))
    caption = f"Paired differences in points (95 % interval), method minus control; {stars(len(tested.found))}"
    return Table(caption, ("compressor", "selector", "k", *names), tuple(rows), words=2)


def _finding(found: Sequence[Cell], methods: Sequence[str], tested: Family) -> str:
    """Of k = 3: attention against random chunks and fewer frames of as many bytes, the oracle against all-high."""
    told = []
    for method in methods:
        for selector, names in (
            ("attention", ("random chunks", "fewer frames")),
            ("oracle", ("all-high",)),
        ):
            cell = only(found, compressor=method, selector=selector, top_k=K, **ONE_PASS)
            if cell is None:
                continue
            others = rivals(found, method, selector, K)
            names = [name for name in names if name in others]
            against = [f"{tested.difference(cell, others[name])} against {name}" for name in names]
            told.append(
                f"{method} with {selector} {percent(cell.point.accuracy)} %, {listed(against)}"
            )
    whole = full(found)
    start = f"Full KVs {percent(whole.point.accuracy)} %; " if whole else ""
    return f"{start}at k = {K}: {'; '.join(told)} ({asked(found[0])}; {tested.told})."


if __name__ == "__main__":
    main(NAME, make)
