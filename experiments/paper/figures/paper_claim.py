"""The paper's claim: chunks re-loaded in detail among compact ones, against all chunks alike, at equal bytes."""

from experiments.paper import kit
from x2l.analysis.figure_style import INK, OTHERS, Style

# The best compressor at each ratio, chosen on the dev split: of 31 at 8x and 16x, of their best three at 4x, 12x and
# 32x; 2x was not run there and is as 4x (experiments/LOG.md).
BEST = (
    *((2.0, "density_peaks"), (4.0, "density_peaks"), (8.0, "density_peaks")),
    *((12.0, "density_peaks"), (16.0, "lag_kv"), (32.0, "lag_kv")),
)
BUDGET = 0.1  # of the full bytes: what the claim is about
ALIKE = {"system": ("all-low", "all-high")}
MIXED = {"baseline": None, "control": None}
# Selectors that see the question and are not told where its answer lies.
METHODS = {**MIXED, "role": "method"}
LINES = (
    kit.Lines(
        ALIKE, ("alike_by",), "all alike, {alike_by}", colour="alike_by", tint=OTHERS, joined=":"
    ),
    kit.Lines(
        {**ALIKE, "alike": BEST}, (), "all alike, best method of dev", style=Style(INK, "o", "-")
    ),
    kit.Lines(MIXED, ("system", "others"), label="{label}, others {others}", variant="others"),
    kit.Lines(
        {"system": "equal_kv_bytes"}, label="fewer frames, uncompressed", style=Style(INK, "x", ":")
    ),
    kit.Lines({"system": "full"}, label="full KVs", across=True),
)


def without_repeats(cells: kit.Cells) -> kit.Cells:
    """All chunks at one ratio of one compressor are one cell, whatever else its run had.

    Raises:
        ValueError: the runs of such a cell answered other questions.
    """
    alike = {cell["alike"]: cell for cell in reversed(cells) if cell["alike_at"]}
    for cell in cells:
        if cell["alike_at"] and cell.samples != (kept := alike[cell["alike"]]).samples:
            raise ValueError(kit.two_sizes(kept, cell))
    return kit.Cells(c for c in cells if not c["alike_at"] or alike[c["alike"]] is c)


def finding(cells: kit.Cells, tested: kit.Family) -> str:
    """The largest difference within the budget, and that to several times its bytes."""
    at_budget = [
        pair
        for pair in tested.pairs
        if pair.name == "equal bytes" and pair.after["bytes"] <= BUDGET
    ]
    if not at_budget:
        return f"No mixed cell has at most {100 * BUDGET:g} % of the bytes {kit.behind(cells)}."
    best = max(at_budget, key=lambda pair: pair.compared.headline.value)
    before, after = best.before, best.after
    words = (
        f"Within {100 * BUDGET:g} % of the KV bytes, re-loading what {after['label']} finds (k = {after['k']}, others "
        f"{after['others']}) is {best.difference} from all chunks alike at {before['alike_at']:g}x of "
        f"{before['alike_by']}: "
        f"{after['accuracy']} % at {after['kv']} % of the bytes, {before['accuracy']} % at {before['kv']} %"
    )
    if more := tested.to(after, "5x the bytes"):
        words += (
            f"; against all alike at {more.before['kv']} % of the bytes, {more.before['accuracy']} %, it is "
            f"{more.difference}"
        )
    clear = sum(pair.is_clear and pair.compared.headline.value > 0 for pair in at_budget)
    return (
        f"{words}. Of {len(at_budget)} mixed cells with a real selector within the budget {clear} are better than all "
        f"alike at no fewer bytes {kit.behind(cells, tested)}."
    )


SPEC = kit.FigureSpec(
    title="The claim: detail where the question needs it, against all chunks alike",
    panels=(
        kit.Beside(
            kit.Panels(kit.ALL_BYTES, LINES, over=None, title="memory"),
            kit.Panels(kit.NEXT_FLOPS, LINES, over=None, title="compute of one more question"),
        ),
    ),
    needs=(MIXED, ALIKE),
    prepare=without_repeats,
    above=lambda c: c.where(**MIXED).say(
        "chunks re-loaded at {finest}x, others at {coarsest}x or dropped"
    ),
    pairs=(
        kit.Pairs(METHODS, {**ALIKE, "alike": BEST}, (), "equal bytes", times_bytes=1.0),
        kit.Pairs(METHODS, {**ALIKE, "alike": BEST}, (), "5x the bytes", times_bytes=5.0),
    ),
    tables=(
        kit.Rows(
            "Mixed caches and single levels, {sample}; {stars}",
            "method | k | accuracy % (95 %) | KV bytes % | recall % | MFLOPs of one more question | "
            "against all alike at no fewer bytes, points (95 %) | against 5x its bytes",
            "{what} | {k} | {interval} | {kv} | {recall} | {mflops} | {against[equal bytes]} | "
            "{against[5x the bytes]}",
            words=2,
            where={},
            order=lambda cell: (not cell["baseline"], cell["label"], cell["bytes"]),
            texts={
                "what": lambda c: (
                    f"all at {c['alike_at']:g}x, {c['alike_by']}"
                    if c["alike_at"]
                    else f"{c['label']}, others {c['others']}"
                    if not c["baseline"]
                    else c["label"]
                ),
                "mflops": lambda c: f"{c.point.flops_next * 1e-6:.0f}",
            },
        ),
    ),
    finding=finding,
    size=(5.2, 4.2),
)
