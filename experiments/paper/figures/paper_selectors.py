"""Selection policies at one k: accuracy beside chunk recall: what selection loses, what compression loses.

python -m experiments.paper.figures.paper_selectors outputs/paper/sweeps/paper_selectors
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.paper.kit.cells import Cell, cells, compressors, only, pick
from experiments.paper.kit.drawing import CONTROL, described, legend, panels
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import Family, accuracy, asked, family, marked, percent, stars
from x2l.analysis.figure_style import COLOURS
from x2l.runs.records import Record

NAME = "paper_selectors"
RETRIEVER = "retriever"


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    methods = compressors(found)
    ratios = sorted({cell.point.ratio_high for cell in found})
    chosen = [cell for cell in found if not cell.point.control]
    names = sorted(
        {cell.point.selector for cell in chosen},
        key=lambda n: sum(c.point.accuracy for c in pick(chosen, selector=n)),
    )
    figure, axes = panels(
        len(methods) + 1, width=2.9, height=0.9 + 0.3 * len(names), below=0.8, sharey=True
    )
    for axis, method in zip(axes, methods, strict=False):
        for ratio, colour, shift in zip(ratios, COLOURS, (-0.16, 0.16, -0.32, 0.32), strict=False):
            for place, name in enumerate(names):
                cell = only(chosen, compressor=method, ratio_high=ratio, selector=name)
                if cell is not None:
                    p, value = cell.point, 100 * cell.point.accuracy
                    reach = [[value - 100 * p.low], [100 * p.high - value]]
                    axis.errorbar(
                        value,
                        place + shift,
                        xerr=reach,
                        color=colour,
                        marker="o",
                        ms=4,
                        capsize=2,
                        lw=1,
                    )
            axis.plot([], [], color=colour, marker="o", ms=4, lw=1, label=f"H-KVs {ratio:g}x")
            for control, style in (("none", ":"), ("all", (0, (4, 3)))):
                if cell := only(found, compressor=method, ratio_high=ratio, selector=control):
                    shade = colour if control == "none" else CONTROL
                    axis.axvline(100 * cell.point.accuracy, color=shade, ls=style, lw=0.9)
        axis.set_title(method)
        axis.set_xlabel("accuracy (%)")
        axis.set_xlim(0, 104)
    last = axes[-1]
    for place, name in enumerate(names):
        cell = only(chosen, compressor=methods[0], ratio_high=ratios[-1], selector=name)
        if cell is not None:
            last.plot(100 * cell.point.recall, place, "s", color=CONTROL, ms=4)
            last.annotate(
                f"KV {100 * cell.point.kv_share:.1f} %",
                (100 * cell.point.recall, place),
                xytext=(6, -3),
                textcoords="offset points",
                fontsize=6.5,
                color=CONTROL,
            )
    last.set_title(f"chunks, {methods[0]} {ratios[-1]:g}x")
    last.set_xlabel("recall of ground-truth chunks (%)")
    last.set_xlim(-4, 140)
    last.set_xticks(range(0, 101, 25))
    axes[0].set_yticks(range(len(names)), names)
    axes[0].plot([], [], color=CONTROL, ls=":", lw=0.9, label="all-high (colour of its ratio)")
    axes[0].plot([], [], color=CONTROL, ls=(0, (4, 3)), lw=0.9, label="all-low")
    legend(figure, axes, columns=4)
    described(figure, found, f"k = {chosen[0].point.top_k}")
    compared = [cell for cell in chosen if not cell.point.selector.startswith("random")]
    tested = family([(random, cell) for cell in compared if (random := _control(chosen, cell))])
    notes = [
        "The oracle re-loads fewer chunks where a question needs fewer; random_as_oracle spends just its bytes.",
    ]
    if RETRIEVER not in names:
        notes.append(
            "The retriever (CLIP, SigLIP or X-CLIP) was not run: its weights could not be downloaded here. The command "
            "that adds it is at the top of conf/experiment/paper_selectors.yaml."
        )
    return Result(
        "Selection policies at equal budget",
        figure,
        (_table(found, chosen, tested),),
        _finding(chosen, methods, ratios, tested),
        tuple(notes),
    )


def _control(chosen: Sequence[Cell], cell: Cell) -> Cell | None:
    """Random chunks of as many bytes: what a selector has to beat."""
    p = cell.point
    name = "random_as_oracle" if p.selector == "oracle" else "random"
    return only(chosen, compressor=p.compressor, ratio_high=p.ratio_high, selector=name)


def _table(found: Sequence[Cell], chosen: Sequence[Cell], tested: Family) -> Table:
    by_cell = {id(cell): tested.of(random, cell) for random, cell in tested.pairs}
    rows = []
    for cell in sorted(
        found, key=lambda c: (c.point.compressor, c.point.ratio_high, -c.point.accuracy)
    ):
        p, gap = cell.point, by_cell.get(id(cell))
        told = "-" if gap is None else marked(gap)
        recall = "-" if p.control else percent(p.recall, 0)
        rows.append(
            (
                p.compressor,
                f"{p.ratio_high:g}x",
                p.control or p.selector,
                accuracy(cell),
                recall,
                percent(p.kv_share),
                told,
            )
        )
    header = (
        "compressor",
        "high ratio",
        "selector",
        "accuracy % (95 %)",
        "recall %",
        "KV bytes %",
        "against random chunks, points (95 %)",
    )
    caption = (
        f"Selectors at k = {chosen[0].point.top_k}, {asked(found[0])}; {stars(len(tested.found))}"
    )
    return Table(caption, header, tuple(rows), words=3)


def _finding(
    chosen: Sequence[Cell], methods: Sequence[str], ratios: Sequence[float], tested: Family
) -> str:
    told = []
    for method in methods:
        own = pick(chosen, compressor=method, ratio_high=ratios[-1])
        names = [
            n for n in ("oracle", "attention", "embedding", RETRIEVER) if pick(own, selector=n)
        ]
        pairs = [(cell, _control(chosen, cell)) for n in names for cell in pick(own, selector=n)]
        parts = [f"{a.point.selector} {tested.difference(a, b)}" for a, b in pairs if b]
        told.append(f"{method}: {', '.join(parts)}")
    at = f"at {ratios[-1]:g}x and k = {chosen[0].point.top_k}"
    return f"Against random chunks of as many bytes, {at}: {'; '.join(told)} ({asked(chosen[0])}; {tested.told})."


if __name__ == "__main__":
    main(NAME, make)
