"""Accuracy over the base (high) ratio, with and without the ground-truth chunks re-loaded: one panel a compressor."""

from experiments.paper import kit

RATIOS = kit.over_trait(
    "base ratio (tokens in / tokens out)", "coarsest", scale="log", ticks=True, apart=0.03
)
LINES = (
    kit.Lines({"system": "all-high"}, label="without (all-high)", joined="-"),
    kit.Lines({"system": "oracle"}, label="with ground-truth chunks at the low ratio (bound)"),
)
REPORTED = (kit.Reported("base_ratio_with"), kit.Reported("base_ratio_without", "s"))
SPEC = kit.FigureSpec(
    title="Base ratio, with and without ground-truth chunks",
    panels=(kit.Panels(RATIOS, LINES, reported=REPORTED),),
    above="low {finest}x",
    pairs=(kit.Pairs({"system": "oracle"}, {"system": "all-high"}, ("compressor", "coarsest")),),
    tables=(
        kit.Rows(
            "Accuracy by base ratio, {sample}; {stars} of this table",
            "compressor | base ratio | without % | KV bytes % | with % | KV bytes % | difference, points (95 %)",
            "{before[compressor]} | {before[coarsest]:g}x | {before[interval]} | {before[kv]} | {interval} | {kv} | "
            "{gap}",
            unpaired={"system": "all-high"},
        ),
    ),
    finding=kit.EachPair(
        "{compressor} at {coarsest:g}x {before[accuracy]} % without and {accuracy} % with, {difference}",
        where={"coarsest": (4, 32)},
        nothing="Where answers lie is not known here: accuracy without their chunks is in the table",
    ),
)
