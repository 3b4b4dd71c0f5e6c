"""Comparisons as text: a table, what is left out of it, and whether it compares equal compute."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from x2l.analysis.comparison import FIELDS, LAST_RESORT, Comparison, text
from x2l.analysis.statistics import Difference


def table(found: Sequence[Comparison], points: float = 5.0) -> str:
    """Comparisons as text: what all share, then a line for each; percentages and percentage points."""
    constant_a, varying_a = _split([one.a for one in found])
    constant_b, varying_b = _split([one.b for one in found])
    shared = {n: v for n, v in constant_a.items() if n in constant_b and constant_b[n] == v}
    # A field that is equal within every pair is named once.
    equal = [n for n in varying_a if n in varying_b and all(one.a[n] == one.b[n] for one in found)]
    columns: dict[str, list[str]] = {name: [text(one.a[name]) for one in found] for name in equal}
    for side, names in (("A", varying_a), ("B", varying_b)):
        for name in (name for name in names if name not in equal):
            cells = [one.a if side == "A" else one.b for one in found]
            columns[f"{side} {name}"] = [text(cell[name]) for cell in cells]
    if any(one.mean == "tasks" for one in found):
        columns["mean over"] = [one.mean for one in found]
    columns["A %"] = [_percent(one.headline_accuracies[0].value) for one in found]
    columns["B %"] = [_percent(one.headline_accuracies[1].value) for one in found]
    columns["B - A (95 %)"] = [_interval(one.headline) for one in found]
    if drawn := [one.bootstrap for one in found if one.bootstrap is not None]:
        title = "bootstrap" if "mean over" not in columns else "micro bootstrap"
        columns[title] = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in drawn]
    columns["right>wrong"] = [str(one.micro.lost) for one in found]
    columns["wrong>right"] = [str(one.micro.gained) for one in found]
    columns["n"] = [str(one.micro.count) for one in found]
    columns["videos"] = [str(one.micro.videos) for one in found]
    columns["p"] = [_p(one.headline.p_value) for one in found]
    columns["p Holm"] = [_p(one.p_holm) for one in found]
    if any(_interval(one.macro) != _interval(one.micro) for one in found):
        for mean, name in (("tasks", "micro"), ("questions", "macro")):
            if any(one.mean == mean for one in found):  # the mean that is not the headline
                first = 0 if name == "micro" else 2
                for side, at in (("A", first), ("B", first + 1)):
                    columns[f"{name} {side} %"] = [
                        _percent(one.accuracies[at].value) for one in found
                    ]
                columns[f"{name} B - A (95 %)"] = [
                    _interval(one.micro if name == "micro" else one.macro) for one in found
                ]
    columns["KV % A"] = [_percent(one.kv_share_a) for one in found]
    columns["KV % B"] = [_percent(one.kv_share_b) for one in found]
    for side, recalls in (
        ("A", [one.recall_a for one in found]),
        ("B", [one.recall_b for one in found]),
    ):
        if not all(map(math.isnan, recalls)):
            columns[f"recall {side}"] = [f"{recall:.2f}" for recall in recalls]
    columns["design effect"] = [f"{one.headline.design_effect:.2f}" for one in found]
    columns[f"videos for {points:g} pt"] = [
        "-" if one.videos_needed is None else str(one.videos_needed) for one in found
    ]
    for name, counts in (
        ("only in A", [one.only_a for one in found]),
        ("only in B", [one.only_b for one in found]),
        ("left out", [one.left_out for one in found]),
        ("unparsed A", [one.unparsed_a for one in found]),
        ("unparsed B", [one.unparsed_b for one in found]),
    ):
        if any(counts):
            columns[name] = [str(count) for count in counts]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for widths in [[max(map(len, [name, *cells])) for name, cells in columns.items()]]
        for line in [list(columns), *zip(*columns.values(), strict=True)]
    ]
    heads = [f"both: {_words(shared)}"]
    for side, constant in (("A", constant_a), ("B", constant_b)):
        own = {name: value for name, value in constant.items() if name not in shared}
        heads += [f"{side}: {_words(own)}"] if own else []
    return "\n".join([*heads, "", *lines])


def _split(cells: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What all cells share, and the names of the fields in which they vary."""
    varying = [name for name in FIELDS if len({cell[name] for cell in cells}) > 1]
    for last in LAST_RESORT:
        if _apart(cells, [*varying, last]) > _apart(cells, varying):
            varying.append(last)
    return {name: cells[0][name] for name in FIELDS if name not in varying}, varying


def _apart(cells: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    return len({tuple(cell[name] for name in names) for cell in cells})


def _words(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {text(value)}" for name, value in fields.items() if value != "")


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _interval(found: Difference) -> str:
    value, low, high = (
        f"{round(100 * v, 1) + 0.0:+.1f}" for v in (found.value, found.low, found.high)
    )
    return f"{value} ({low} to {high})"  # no -0.0


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def unequal_bytes(comparisons: Sequence[Comparison]) -> str:
    """A warning where sides differ in bytes; empty where all are at equal compute."""
    unequal = [comparison for comparison in comparisons if comparison.unequal_bytes]
    if not unequal:
        return ""
    most = max(unequal, key=lambda one: abs(one.kv_share_b - one.kv_share_a))
    return (
        f"KV bytes of A and B differ by more than 10 % in {len(unequal)} of {len(comparisons)} comparisons "
        f"(most: {_percent(most.kv_share_a)} % and {_percent(most.kv_share_b)} % of the uncompressed cache): these "
        "are not at equal compute"
    )


def closing(found: Sequence[Comparison]) -> str:
    """What the table leaves out, in one sentence."""
    lost = max(one.only_a + one.only_b for one in found)
    uncounted = max(one.left_out for one in found)
    if not lost and not uncounted:
        return "Every question was answered on both sides."
    parts = []
    if lost:
        parts.append(f"questions that only one side answered, up to {lost} in a comparison")
    if uncounted:
        parts.append(
            f"questions that the protocol does not count on one side or both (not parsed, or not all tries), "
            f"up to {uncounted} in a comparison"
        )
    return f"Left out: {'; '.join(parts)}."
