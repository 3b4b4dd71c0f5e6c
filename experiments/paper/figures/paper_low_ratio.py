"""Low ratio 2 or 4: accuracy over KV bytes, one panel a compressor."""

from experiments.paper import kit

SELECTORS = {"system": ("oracle", "attention", "random")}
LINES = (
    kit.Lines(SELECTORS, ("finest", "system"), "{label}, low {finest:g}x", variant="finest"),
    kit.Lines({"system": "all-low"}, ("finest",), "all-low {finest:g}x", variant="finest"),
    kit.Lines({"system": "all-high", "finest": min}),
)


def k_of_as_many_bytes(cell: kit.Cell) -> float:
    """Half as many chunks at half the ratio; a bound's number is its own."""
    return cell["top_k"] if cell.condition.is_bound else cell["top_k"] / 2


SPEC = kit.FigureSpec(
    title="Low ratio 2 or 4",
    panels=(kit.Panels(kit.KV_BYTES, LINES),),
    above="high {coarsest}x",
    pairs=(
        kit.Pairs(
            {"finest": 4, "baseline": None},
            {"finest": 2, "top_k": k_of_as_many_bytes},
            ("compressor", "system"),
        ),
    ),
    tables=(
        kit.Rows(
            "Twice as many chunks at twice the low ratio, {sample}; {stars} of this table",
            "compressor | selector | k | low 2x, % | KV bytes % | k | low 4x, % | KV bytes % | "
            "difference, points (95 %)",
            "{compressor} | {system} | {before[k]} | {before[interval]} | {before[kv]} | {k} | {interval} | "
            "{kv} | {gap}",
            words=2,
        ),
    ),
    finding=kit.EachPair(
        "{compressor} with {system} {before[accuracy]} % (k = {before[k]}, {before[kv]} % of the KV bytes) and "
        "{accuracy} % (k = {k}, {kv} %), {difference}",
        where={"role": kit.all_but("control")},
        before={"top_k": 4},
        start=lambda cells: "Low 2x and 4x: ",
    ),
)
