"""Accuracy over the hit rate of a simulated selector: one panel a compressor, one line a high ratio.

The hit rate on the axis is the one that was measured: the share of questions with a ground-truth chunk re-loaded.
"""

from experiments.paper import kit

SIMULATED = {"system": kit.all_but("all-low")}  # all-high stands for no hit at all
LINES = (
    kit.Lines(
        SIMULATED, ("coarsest",), "H-KVs {coarsest:g}x, simulated (bound)", colour="coarsest"
    ),
    kit.Lines({"system": "all-low", "coarsest": max}, across=True),
)
HITS = kit.over_trait(
    "hit rate: questions with a\nground-truth chunk re-loaded (%)", "hit", apart=1.2
)
SPEC = kit.FigureSpec(
    title="Accuracy against hit rate",
    panels=(kit.Panels(HITS, LINES, reported=(kit.Reported("hit_rate"),)),),
    pairs=(kit.Pairs(SIMULATED, {"system": "all-high"}, ("compressor", "coarsest")),),
    tables=(
        kit.Rows(
            "Accuracy by hit rate of a simulated selector, {sample}; {stars} of this table",
            "compressor | high ratio | hit rate % | accuracy % (95 %) | KV bytes % | against the lowest, points (95 %)",
            "{compressor} | {coarsest:g}x | {hit:.0f} | {interval} | {kv} | {gap}",
            words=2,
            where=SIMULATED,
            order=lambda cell: (cell["compressor"], cell["coarsest"], cell["hit"]),
        ),
    ),
    finding=kit.EachPair(
        "{compressor} goes from {before[accuracy]} % at hit rate {before[hit]:.0f} % to {accuracy} % at {hit:.0f} %, "
        "{difference}",
        where={"coarsest": max, "hit": max},
        start=lambda cells: f"With H-KVs at {max(cells.values('coarsest')):g}x, ",
        nothing="No simulated selector was run: the set does not say where answers lie",
    ),
)
