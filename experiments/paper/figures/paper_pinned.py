"""First and last chunk always re-loaded or not, over the number of chunks re-loaded in all: one panel a compressor."""

from experiments.paper import kit

SELECTORS = {"system": ("oracle", "attention", "random")}
ENDS = {"pinned": "first+last"}
LINES = (
    kit.Lines({**SELECTORS, "pinned": ""}),
    kit.Lines({**SELECTORS, **ENDS}, label="{label}, ends pinned", variant="pinned"),
    kit.Lines({"system": "all-high"}, across=True),
)


def k_of_as_many_bytes(cell: kit.Cell) -> int:
    """Two more chunks of the selector's instead of the ends; a bound has none but true chunks to offer."""
    return cell["top_k"] if cell.condition.is_bound else cell["top_k"] + 2


SPEC = kit.FigureSpec(
    title="First and last chunk pinned, on and off",
    panels=(kit.Panels(kit.KV_BYTES, LINES),),
    pairs=(kit.Pairs(ENDS, {"pinned": "", "top_k": k_of_as_many_bytes}, ("compressor", "system")),),
    tables=(
        kit.Rows(
            "Pinned ends against two more chunks of the selector's, {sample}; {stars} of this table",
            "compressor | selector | k | off, % | KV bytes % | k | first and last on top, % | KV bytes % | "
            "difference, points (95 %)",
            "{compressor} | {system} | {before[k]} | {before[interval]} | {before[kv]} | {k} | {interval} | "
            "{kv} | {gap}",
            words=2,
        ),
    ),
    finding=kit.Spread(
        "Both ends pinned against two more chunks", "{compressor}, {system}, k = {top_k}"
    ),
    notes=(
        kit.Note(
            "The oracle has none but true chunks to offer: there, both have one k and the pinned side more bytes.",
            where={"system": "oracle"},
        ),
    ),
)
