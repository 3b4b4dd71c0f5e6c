"""Accuracy over KV bytes of compressors, all chunks at one ratio: one panel a kind, the controls in all of them.

python -m experiments.paper.figures.paper_compressors outputs/paper/sweeps/paper_compressors
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.docs.methods_table import compressor, kind
from experiments.paper.kit.cells import Cell, cells, comparisons, compressors, only, pick
from experiments.paper.kit.drawing import accuracy_axis, described, kv, kv_axis, panels
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import LEVEL, accuracy, asked, percent, points_of
from x2l.analysis.figure_style import COLOURS
from x2l.runs.records import Record

NAME = "paper_compressors"
CONTROLS = {"uniform": ("#000000", "-"), "random": ("#777777", "--")}
PALETTE = (*COLOURS[:6], "#882255", "#999933")
MARKERS = "os^Dv<>P"


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence.

    Raises:
        ValueError: the controls are missing, without which no line says anything.
    """
    found = cells(records)
    names = compressors(found)
    if missing := sorted(set(CONTROLS) - set(names)):
        raise ValueError(f"records: none of {missing}, the controls; run them as well")
    kinds = {name: kind(compressor(name.split(".")[0])) for name in names}
    groups = sorted({kinds[name] for name in names if name not in CONTROLS})
    most = max(sum(kinds[name] == group for name in names) for group in groups)
    figure, axes = panels(len(groups), width=3.3, height=3.2, below=0.5 + 0.09 * most, sharey=True)
    for axis, group in zip(axes, groups, strict=True):
        members = sorted(name for name in names if kinds[name] == group and name not in CONTROLS)
        for place, name in enumerate(members):
            style = ("-", ":")[place // len(PALETTE) % 2]
            look = (PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)], style)
            _line(axis, pick(found, compressor=name), name, *look)
        for name, (colour, style) in CONTROLS.items():
            _line(axis, pick(found, compressor=name), f"{name} (control)", colour, "", style)
        axis.set_title(group)
        kv_axis(axis)
        axis.legend(
            fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False
        )
    accuracy_axis(axes, len(groups))
    half = 50 * max(cell.point.high - cell.point.low for cell in found)
    described(figure, found, f"all chunks at one ratio, 95 % intervals up to ± {half:.0f} points")
    return Result(
        "Compressors at equal ratios",
        figure,
        (_table(found, names, kinds),),
        _finding(found, names, kinds),
        (
            "Uniform and random pruning (black, grey) are the controls at equal bytes; nothing is re-loaded.",
        ),
    )


def _line(axes, found: Sequence[Cell], label: str, colour: str, marker: str, style: str) -> None:
    rows = sorted((cell.point for cell in found), key=kv)
    value = [100 * p.accuracy for p in rows]
    axes.plot(
        [kv(p) for p in rows],
        value,
        color=colour,
        ls=style,
        marker=marker,
        ms=4,
        lw=1.3,
        label=label,
    )


def _table(found: Sequence[Cell], names: Sequence[str], kinds: dict[str, str]) -> Table:
    ratios = sorted({cell.point.ratio_high for cell in found})
    rows = []
    for name in sorted(names, key=lambda n: (n in CONTROLS, kinds[n], n)):
        own = [only(found, compressor=name, ratio_high=ratio) for ratio in ratios]
        rows.append((name, kinds[name], *("-" if cell is None else accuracy(cell) for cell in own)))
    header = ("compressor", "kind", *(f"{ratio:g}x" for ratio in ratios))
    return Table(
        f"Accuracy % (95 %), all chunks at one ratio, {asked(found[0])}",
        header,
        tuple(rows),
        words=2,
    )


def _finding(found: Sequence[Cell], names: Sequence[str], kinds: dict[str, str]) -> str:
    """Of the largest ratio: which methods differ from random pruning, Holm over all of them."""
    ratio = max(cell.point.ratio_high for cell in found)
    random = only(found, compressor="random", ratio_high=ratio)
    own = [only(found, compressor=name, ratio_high=ratio) for name in names if name != "random"]
    own = sorted((cell for cell in own if cell), key=lambda cell: -cell.point.accuracy)
    gaps = comparisons([(random, cell) for cell in own])
    told = [
        f"{cell.point.compressor} ({kinds[cell.point.compressor]}) {percent(cell.point.accuracy)} %, "
        f"{points_of(gap)} points"
        for cell, gap in zip(own, gaps, strict=True)
        if gap.p_holm < LEVEL
    ]
    others = [
        cell.point.compressor for cell, gap in zip(own, gaps, strict=True) if gap.p_holm >= LEVEL
    ]
    words = (
        f"those told from it (p < 0.05 by Holm over {len(own)}) are {'; '.join(told)}"
        if told
        else f"none of {len(own)} is told from it (p < 0.05 by Holm)"
    )
    rest = f"; {', '.join(others)} are not" if told and others else ""
    return f"At {ratio:g}x random pruning keeps {percent(random.point.accuracy)} %; {words}{rest} ({asked(random)})."


if __name__ == "__main__":
    main(NAME, make)
