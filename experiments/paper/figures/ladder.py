"""Two levels or three: accuracy over KV bytes at equal budgets, one panel a compressor."""

from statistics import fmean

from experiments.paper import kit
from x2l.analysis.figure_style import INK, Style

SELECTORS = ("oracle", "attention", "random")
TWO = {"coarsest": max, "between": ""}
THREE = {"coarsest": max, "between": kit.all_but("")}
ALL_BETWEEN = {"coarsest": lambda ratios: tuple(ratios[:-1])}  # every chunk at the level between
LINES = (
    kit.Lines({**TWO, "system": SELECTORS}, label="{label}, two levels"),
    kit.Lines(
        {**THREE, "system": SELECTORS},
        ("system", "between"),
        label="{label}, with {between}",
        variant="between",
    ),
    kit.Lines({**TWO, "system": ("all-low", "all-high")}),
    kit.Lines(ALL_BETWEEN, label="all at {coarsest:g}x", style=Style(INK, "*", "")),
)


def choice(cell: kit.Cell) -> str:
    """The selector; of a run with every chunk at the level between, its ratio."""
    return f"all at {cell['coarsest']:g}x" if cell.condition.baseline else cell["system"]


def finding(cells: kit.Cells, tested: kit.Family) -> str:
    """How often and how far the two differ."""
    parts = []
    for name in SELECTORS:
        if pairs := [pair for pair in tested.pairs if pair.after["system"] == name]:
            values = [pair.compared.headline.value for pair in pairs]
            clear = [value for pair, value in zip(pairs, values, strict=True) if pair.is_clear]
            parts.append(
                f"with {pairs[0].after['label']} three levels are better in {sum(v > 0 for v in clear)} and worse in "
                f"{sum(v < 0 for v in clear)} of {len(pairs)} pairs (mean {100 * fmean(values):+.1f} points)"
            )
    words = "; ".join(parts) or "nothing was run with two levels and with three"
    return f"At equal budgets of KV bytes, {words} (p < {kit.LEVEL:g}, Holm over {len(tested)})."


SPEC = kit.FigureSpec(
    title="Two levels or three at equal bytes",
    panels=(kit.Panels(kit.KV_BYTES, LINES),),
    needs=(THREE,),
    above=lambda c: c.where(**THREE).say("low {finest}x, {between}, high {coarsest}x"),
    pairs=(
        kit.Pairs(
            {**THREE, "baseline": None},
            {"between": ""},
            ("compressor", "system", "top_k", "coarsest"),
        ),
    ),
    tables=(
        kit.Rows(
            "Three levels against two at equal budgets, {sample}; {stars} of this table",
            "compressor | selector | budget | KV bytes %, two | three | accuracy %, two levels | three levels | "
            "difference, points (95 %)",
            "{before[compressor]} | {choice} | {before[k]} | {before[kv]} | {kv} | {before[interval]} | {interval} | "
            "{gap}",
            words=3,
            texts={"choice": choice},
            unpaired=ALL_BETWEEN,
        ),
    ),
    finding=finding,
)
