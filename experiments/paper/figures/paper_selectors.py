"""Selection policies at one k: accuracy beside chunk recall: what selection loses, what compression loses."""

from experiments.paper import kit
from x2l.analysis.figure_style import SOFT, Style

MATCHED = "random_as_oracle"  # random chunks of just the oracle's bytes
IN_FINDING = ("oracle", "attention", "embedding", "retriever")
CHOSEN = {"baseline": None}
OTHERS = {**CHOSEN, "system": kit.all_but("oracle", "random", MATCHED)}
RATIO = ("compressor", "coarsest")


def by_accuracy(cells: kit.Cells) -> list[str]:
    """Selectors, the best first."""
    total = {
        name: sum(cell.point.accuracy for cell in cells.where(label=name))
        for name in cells.where(**CHOSEN).values("label")
    }
    return sorted(total, key=lambda name: -total[name])


def finding(cells: kit.Cells, tested: kit.Family) -> str:
    """Of the largest high ratio."""
    chosen = cells.where(**CHOSEN, coarsest=max)
    parts = []
    for name in chosen.values("compressor"):
        selectors = [cell for s in IN_FINDING for cell in chosen.where(compressor=name, system=s)]
        words = [f"{c['system']} {pair.difference}" for c in selectors if (pair := tested.to(c))]
        parts.append(f"{name}: {', '.join(words)}")
    at = chosen.say("at {coarsest}x and k = {k}")
    return f"Against random chunks of as many bytes, {at}: {'; '.join(parts)} {kit.behind(cells, tested)}."


LINES = (
    kit.Lines(CHOSEN, ("coarsest",), "H-KVs {coarsest:g}x", colour="coarsest"),
    kit.Lines(
        {"system": "all-high"},
        ("coarsest",),
        "all-high, {coarsest:g}x",
        colour="coarsest",
        joined=":",
        across=True,
    ),
    kit.Lines({"system": "all-low", "coarsest": max}, joined="--", across=True),
)
RECALLED = kit.Lines(
    {**CHOSEN, "compressor": min, "coarsest": max},
    (),
    label="",
    style=Style(SOFT, "s", ""),
    remark="KV {kv} %",
)
RECALL = kit.Axis(
    "recall of true chunks (%)",
    lambda cell: 100 * cell.point.recall,
    limits=(-4, 150),
    ticks=(0, 25, 50, 75, 100),
)
SELECTORS = kit.over_trait("", "label", by_accuracy, apart=0.3)
SPEC = kit.FigureSpec(
    title="Selection policies at equal budget",
    panels=(
        kit.Beside(
            kit.Panels(kit.ACCURACY, LINES, SELECTORS),
            kit.Panels(RECALL, (RECALLED,), SELECTORS, over=None, title="chunks re-loaded"),
        ),
    ),
    above="k = {k}",
    pairs=(
        kit.Pairs({**CHOSEN, "system": "oracle"}, {"system": MATCHED}, RATIO),
        kit.Pairs(OTHERS, {"system": "random"}, RATIO),
    ),
    tables=(
        kit.Rows(
            "Selectors at k = {k}, {sample}; {stars} of this table",
            "compressor | high ratio | selector | accuracy % (95 %) | recall % | KV bytes % | "
            "against random chunks, points (95 %)",
            "{compressor} | {coarsest:g}x | {system} | {interval} | {recall} | {kv} | {gap}",
            words=3,
            where={},
            order=lambda cell: (cell["compressor"], cell["coarsest"], -cell.point.accuracy),
        ),
    ),
    finding=finding,
    notes=(
        kit.Note(
            "The oracle re-loads fewer chunks where a question needs fewer; random_as_oracle spends just its bytes.",
            where={"system": MATCHED},
        ),
        kit.Note(
            "The retriever (CLIP, SigLIP or X-CLIP) was not run: its weights could not be downloaded here. The command "
            "that adds it is at the top of conf/experiment/paper_selectors.yaml.",
            without={"system": "retriever"},
        ),
    ),
    size=(2.9, 3.6),
)
