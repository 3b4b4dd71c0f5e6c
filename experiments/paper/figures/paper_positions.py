"""Positions kept or closed up, in one pass and in two: accuracy, one panel a compressor."""

from experiments.paper import kit

SYSTEMS = ("all-low", "all-high", "oracle", "attention", "random")
CONTEXTS = ("full", "own")
SETTINGS = kit.Axis(
    "context, positions",
    "{context}\n{positions}".format_map,
    categories=[f"{context}\n{rule}" for context in CONTEXTS for rule in ("keep", "compact")],
    apart=0.16,
)
SPEC = kit.FigureSpec(
    title="Positions: keep or compact",
    panels=(kit.Panels(SETTINGS, (kit.Lines({"system": SYSTEMS}),)),),
    pairs=(
        kit.Pairs(
            {"positions": "compact", "context": CONTEXTS, "system": SYSTEMS},
            {"positions": "keep"},
            ("compressor", "context", "system"),
        ),
    ),
    tables=(
        kit.Rows(
            "Positions, {sample}; compact minus keep; {stars} of this table",
            "compressor | context | cell | keep, % | compact, % | difference, points (95 %)",
            "{compressor} | {context} | {system} | {before[interval]} | {interval} | {gap}",
            words=3,
        ),
    ),
    finding=kit.Spread("Compact against keep", "{compressor}, {system} in context {context}"),
    notes=(
        kit.Note(
            "x2l_tiny was trained on videos of one frame a second with their true positions.",
            where={"model": "x2l_tiny"},
        ),
    ),
)
