"""Selectors at one k on both scenes: accuracy beside recall of true chunks, and recall over what choosing takes."""

from experiments.paper import kit
from x2l.analysis.figure_style import SOFT, Style

MATCHED = "random_as_oracle"  # random chunks of just the oracle's bytes
IN_FINDING = ("oracle", "keys_calibrated", "keys", "retriever", "attention")
CHOSEN = {"baseline": None}
NO_BOUND = {"role": kit.all_but("bound")}
OTHERS = {**CHOSEN, "system": kit.all_but("oracle", "random", MATCHED)}
SAME = ("scene", "compressor", "coarsest")


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
    for scene in chosen.values("scene"):
        of_scene = chosen.where(scene=scene)
        selectors = [cell for name in IN_FINDING for cell in of_scene.where(system=name)]
        words = [
            f"{c['label']} {pair.difference}" for c in selectors if (pair := tested.to(c, "random"))
        ]
        parts.append(f"{scene} scenes: {', '.join(words)}")
    at = chosen.say("at {coarsest}x and k = {k}")
    return f"Against random chunks, {at}: {'; '.join(parts)} {kit.behind(cells, tested)}."


def across(baseline: str, dashes: str) -> kit.Lines:
    """A line across for all chunks at one level."""
    return kit.Lines({"system": baseline, "coarsest": max}, joined=dashes, across=True)


ACCURACIES = (
    kit.Lines({**CHOSEN, **NO_BOUND}, (), label="", style=Style(SOFT, "o", "")),
    kit.Lines(
        {**CHOSEN, "role": "bound"},
        (),
        label="bound, KV bytes beside it",
        style=Style(SOFT, "d", ""),
        remark="KV {kv} %",
    ),
    across("all-high", ":"),
    across("all-low", "--"),
)
RECALLS = (kit.Lines(CHOSEN, label="", remark="{label}"),)
SELECTORS = kit.over_trait("", "label", by_accuracy)
SPEC = kit.FigureSpec(
    title="Selectors at one k, and what choosing takes",
    panels=(
        kit.Panels(kit.ACCURACY, ACCURACIES, SELECTORS, over="scene", title="{scene} scenes"),
        kit.Panels(kit.CHOOSING_FLOPS, RECALLS, kit.RECALL, over="scene", title="{scene} scenes"),
        kit.Panels(kit.CHOOSING_BYTES, RECALLS, kit.RECALL, over="scene", title="{scene} scenes"),
    ),
    above=lambda c: c.where(**CHOSEN, **NO_BOUND).say(
        "{compressor}, L-KVs {finest}x, H-KVs {coarsest}x, k = {k}: {kv} % of the KV bytes"
    ),
    pairs=(
        kit.Pairs({**CHOSEN, "system": "oracle"}, {"system": MATCHED}, SAME, "random"),
        kit.Pairs(OTHERS, {"system": "random"}, SAME, "random"),
    ),
    tables=(
        kit.Rows(
            "Selectors at k = {k}, {sample}; {stars} of this table",
            "scene | selector | accuracy % (95 %) | recall % | KV bytes % | "
            "choosing, MFLOPs a question | streamed and kept, % of KV bytes | "
            "against random chunks, points (95 %)",
            "{scene} | {system} | {interval} | {recall} | {kv} | {mflops} | {choosing} | {gap}",
            words=2,
            where={},
            order=lambda cell: (cell["scene"], -cell.point.accuracy),
            texts={
                "mflops": lambda c: f"{1e-6 * c.point.flops['selection']:.3g}",
                "choosing": lambda c: f"{100 * c['choosing_bytes']:.2g}",
            },
        ),
    ),
    finding=finding,
    notes=(
        kit.Note(
            "The oracle re-loads fewer chunks where a question needs fewer; random_as_oracle spends just its bytes.",
            where={"system": MATCHED},
        ),
    ),
    size=(5.0, 4.0),
)
