"""Points as aligned text, for terminals and notebooks."""

from collections.abc import Sequence

from tabulate import tabulate

from x2l.analysis.cell_names import names, value_text
from x2l.analysis.lmms_eval import ReferenceLine
from x2l.analysis.points import Point
from x2l.analysis.scoring import ALL_TASKS
from x2l.analysis.units import number, percent, percent_range
from x2l.runs.condition import FULL, setting_names


def table(points: Sequence[Point], references: Sequence[ReferenceLine] = ()) -> str:
    """The points as aligned text, one line per cell; only what differs between cells is named.

    Args:
        points: cells.
        references: what other programs reached, below them.
    """
    shown = [p for p in points if p.task == ALL_TASKS]
    called = names(p.condition for p in shown)
    short = any(p.out_of_memory for p in shown)
    rows = []
    for p in shown:
        traits = p.condition.traits
        if is_full := p.condition.baseline == FULL:
            traits = {name: traits[name] for name in setting_names()}
        row = {
            "compressor": "-" if is_full else p.condition.compressor,
            "selector": p.condition.baseline or called.choice(p.condition),
            "k": value_text(p.condition.top_k),
            **{name: value_text(traits.get(name)) for name in called.varying},
            "accuracy": _accuracy(p),
            "95% interval": percent_range(p.accuracy_low, p.accuracy_high) if p.questions else "-",
            "n": str(p.questions),
            "unparsed": str(p.parse_failures),
            "recall": "-" if p.condition.baseline else number(p.recall, ".2f"),
            "KV %": percent(p.kv_share),
            "GFLOPs": number(p.flops_total * 1e-9, ".3g"),
            "next": number(p.flops_next * 1e-9, ".2g"),
            "s": number(p.seconds_total, ".2g"),
            "next s": number(p.seconds_next, ".2g"),
        }
        rows.append(row | {"OOM": str(p.out_of_memory)} if short else row)
    for reference in references:
        accuracy = reference.accuracy
        row = {
            "compressor": reference.name,
            "selector": reference.benchmark,
            "accuracy": percent(accuracy.value),
            "95% interval": percent_range(accuracy.low, accuracy.high),
            "n": str(accuracy.count),
            "unparsed": str(reference.parse_failures),
        }
        rows.append({name: row.get(name, "-") for name in rows[0]})
    left = ("compressor", "selector", *called.varying)
    sides = ["left" if name in left else "right" for name in rows[0]]
    text = tabulate(rows, "keys", tablefmt="plain", disable_numparse=True, colalign=sides)
    return f"{text}\n* without the answers that ran out of memory (OOM)" if short else text


def _accuracy(point: Point) -> str:
    """Over fewer questions than the others' if memory ran out for some."""
    if not point.out_of_memory:
        return percent(point.accuracy)
    return f"{percent(point.accuracy)}*" if point.questions else "OOM"
