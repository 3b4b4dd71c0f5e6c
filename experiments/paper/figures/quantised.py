"""Accuracy over KV bytes as stored: one panel a compressor, one line a form of storage."""

from dataclasses import replace

from experiments.paper import kit

STORED = replace(kit.KV_BYTES, label="KV bytes as stored (% of full)")
FORMS = kit.Lines({"codec": ("none", "int8", "int4")}, ("codec",), "{stored}", colour="codec")
SPEC = kit.FigureSpec(
    title="Fewer KVs or fewer bits",
    panels=(kit.Panels(STORED, (FORMS,), over="method"),),
    above="all chunks at one of {coarsest}x",
    pairs=(kit.Pairs({"codec": kit.all_but("none")}, {"codec": "none"}, ("method", "coarsest")),),
    tables=(
        kit.Rows(
            "Fewer KVs or fewer bits, {sample}; {stars} of this table",
            "compressor | stored | ratio | accuracy % (95 %) | KV bytes % | against as they are, points (95 %)",
            "{method} | {stored} | {coarsest:g}x | {interval} | {kv} | {gap}",
            words=2,
            where={},
        ),
    ),
    finding=kit.Spread("Quantised against as they are", "{compressor}, {coarsest:g}x"),
    size=(3.3, 3.0),
)
