"""Accuracy over KV bytes of compressors, all chunks at one ratio: one panel a kind, the controls in all of them."""

from dataclasses import replace

from experiments.paper import kit

CONTROLS = ("random", "uniform")
METHODS = {"compressor": kit.all_but(*CONTROLS)}
BY = ("compressor",)
LINES = (
    kit.Lines(METHODS, BY, "{compressor}", "compressor"),
    kit.Lines(
        {"compressor": CONTROLS},
        BY,
        "{compressor} (control)",
        "compressor",
        joined="--",
        everywhere=True,
    ),
)
RANDOM = {"compressor": "random"}


def finding(cells: kit.Cells, tested: kit.Family) -> str:
    """Of the largest ratio: which methods differ from random pruning, Holm over all of them."""
    pairs = sorted(tested.pairs, key=lambda pair: -pair.after.point.accuracy)
    template = "{compressor} ({kind}) {accuracy} %, {points} points"
    clear = "; ".join(template.format_map(pair) for pair in pairs if pair.is_clear)
    others = ", ".join(pair.after["compressor"] for pair in pairs if not pair.is_clear)
    words = f"none of {len(pairs)} is told from it (p < {kit.LEVEL:g} by Holm)"
    if clear:
        words = f"those told from it (p < {kit.LEVEL:g} by Holm over {len(pairs)}) are {clear}"
        words += f"; {others} are not" if others else ""
    random = cells.where(**RANDOM, coarsest=max)
    start = random.say("At {coarsest}x random pruning keeps {accuracy} %")
    return f"{start}; {words} {kit.behind(random)}."


def widest(cells: kit.Cells) -> str:
    """How long the intervals are that are not drawn."""
    half = max(cell.point.accuracy_high - cell.point.accuracy_low for cell in cells) / 2
    return f"all chunks at one ratio, 95 % intervals up to ± {100 * half:.0f} points"


SPEC = kit.FigureSpec(
    title="Compressors at equal ratios",
    panels=(
        kit.Panels(kit.KV_BYTES, LINES, replace(kit.ACCURACY, interval=None), "kind", METHODS),
    ),
    needs=tuple({"compressor": name} for name in CONTROLS),
    above=widest,
    pairs=(
        kit.Pairs({"compressor": kit.all_but("random"), "coarsest": max}, RANDOM, ("coarsest",)),
    ),
    tables=(
        kit.Pivot(
            "Accuracy % (95 %), all chunks at one ratio, {sample}",
            by=("compressor", "kind"),
            over="coarsest",
            header="{coarsest:g}x",
            row="{interval}",
            order=lambda row: (row[0] in CONTROLS, row[1], row[0]),
        ),
    ),
    finding=finding,
    notes=(
        "Uniform and random pruning (grey, dashed) are the controls at equal bytes; nothing is re-loaded.",
    ),
    size=(3.3, 3.0),
    bars="",
)
