"""Comparisons as text: a table, what is left out of it, and whether it compares equal KV bytes."""

import csv
import io
import math
import re
import textwrap
from collections.abc import Hashable, Mapping, Sequence

from tabulate import tabulate

from x2l.analysis import units
from x2l.analysis.cell_names import value_text, varying
from x2l.analysis.comparison import Comparison
from x2l.analysis.statistics import Difference
from x2l.runs.condition import last_resorts

WIDTH = 120
_NUMBER = re.compile(r"[-+<]?\s?[.\d]|-?$")
FORMATS = {"text": "plain", "markdown": "github", "latex": "latex_booktabs", "csv": None}


def table(comparisons: Sequence[Comparison], points: float = 5.0, form: str = "text") -> str:
    """Comparisons: what all share, then a line for each; percentages and percentage points.

    Args:
        comparisons: one or more.
        points: the difference that `videos for` is about.
        form: `text` (no line is wider than 120 columns: further columns stand below, by number), `markdown`, `latex` or
            `csv`, which has the lines alone.
    """
    return formatted(*_content(comparisons, points), form)


def formatted(heads: Sequence[str], columns: Mapping[str, Sequence[str]], form: str) -> str:
    """Lines above a table and the table, in one of `FORMATS`."""
    if form == "text":
        return "\n".join([*map(wrapped, heads), "", *_blocks(columns)])
    if form == "csv":
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return file.getvalue().rstrip("\n")
    mark = "% " if form == "latex" else ""
    text = tabulate(columns, "keys", tablefmt=str(FORMATS[form]), disable_numparse=True)
    return "\n".join([*(f"{mark}{head}" for head in heads), "", text])


def wrapped(text: str) -> str:
    """A text in lines of 120 columns at most."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _blocks(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Tables side by side as far as they fit, then below one another; lines are numbered where there are several."""
    whole = _plain(columns)
    if max(map(len, whole.splitlines())) <= WIDTH:
        return [whole]
    numbers = {"#": [str(n) for n in range(1, 1 + len(next(iter(columns.values()))))]}
    blocks, block = [], dict[str, Sequence[str]](numbers)
    for name, values in columns.items():
        wider = {**block, name: values}
        if len(block) > 1 and max(map(len, _plain(wider).splitlines())) > WIDTH:
            blocks.append(block)
            wider = {**numbers, name: values}
        block = wider
    return "\n\n".join(_plain(block) for block in [*blocks, block]).split("\n")


def _plain(columns: Mapping[str, Sequence[str]]) -> str:
    # Words begin at the left; numbers, with or without an interval, end at the right.
    is_number = [all(_NUMBER.match(value) for value in values) for values in columns.values()]
    align = tuple("right" if number else "left" for number in is_number)
    return tabulate(columns, "keys", tablefmt="plain", disable_numparse=True, colalign=align)


def _content(
    comparisons: Sequence[Comparison], points: float
) -> tuple[list[str], dict[str, list[str]]]:
    """What all share, in lines; and the columns."""
    sides = {"A": [c.a for c in comparisons], "B": [c.b for c in comparisons]}
    traits = {side: [condition.traits for condition in of] for side, of in sides.items()}
    differing = {side: varying(of) for side, of in sides.items()}
    constant = {
        side: {
            n: v for n, v in of[0].items() if n not in differing[side] and n not in last_resorts()
        }
        for side, of in traits.items()
    }
    shared = dict(constant["A"].items() & constant["B"].items())
    # A trait that is equal within every pair is named once.
    equal = [
        name
        for name in differing["A"]
        if name in differing["B"]
        and all(a.get(name) == b.get(name) for a, b in zip(*traits.values(), strict=True))
    ]
    columns = {name: [value_text(of.get(name)) for of in traits["A"]] for name in equal}
    for side, names in differing.items():
        for name in (name for name in names if name not in equal):
            columns[f"{side} {name}"] = [value_text(of.get(name)) for of in traits[side]]
    if any(c.mean == "tasks" for c in comparisons):
        columns["mean over"] = [c.mean for c in comparisons]
    columns["A %"] = [units.percent(c.headline_accuracies[0].value) for c in comparisons]
    columns["B %"] = [units.percent(c.headline_accuracies[1].value) for c in comparisons]
    columns["B - A (95 %)"] = [_interval(c.headline) for c in comparisons]
    if drawn := [c.bootstrap for c in comparisons if c.bootstrap is not None]:
        title = "bootstrap" if "mean over" not in columns else "micro bootstrap"
        columns[title] = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in drawn]
    columns["right>wrong"] = [str(c.micro.lost) for c in comparisons]
    columns["wrong>right"] = [str(c.micro.gained) for c in comparisons]
    columns["n"] = [str(c.micro.count) for c in comparisons]
    columns["videos"] = [str(c.micro.videos) for c in comparisons]
    columns["p"] = [
        units.p_value(math.nan if c.same_by_construction else c.headline.p_value)
        for c in comparisons
    ]
    columns["p Holm"] = [units.p_value(c.p_holm) for c in comparisons]
    if any(_interval(c.macro) != _interval(c.micro) for c in comparisons):
        for mean, name in (("tasks", "micro"), ("questions", "macro")):
            if any(c.mean == mean for c in comparisons):  # the mean that is not the headline
                first = 0 if name == "micro" else 2
                for side, at in (("A", first), ("B", first + 1)):
                    columns[f"{name} {side} %"] = [
                        units.percent(c.accuracies[at].value) for c in comparisons
                    ]
                columns[f"{name} B - A (95 %)"] = [
                    _interval(c.micro if name == "micro" else c.macro) for c in comparisons
                ]
    columns["KV % A"] = [units.percent(c.kv_share_a) for c in comparisons]
    columns["KV % B"] = [units.percent(c.kv_share_b) for c in comparisons]
    for title, recalls in (
        ("recall A", [c.recall_a for c in comparisons]),
        ("recall B", [c.recall_b for c in comparisons]),
    ):
        if not all(map(math.isnan, recalls)):
            columns[title] = [f"{recall:.2f}" for recall in recalls]
    columns["design effect"] = [f"{c.headline.design_effect:.2f}" for c in comparisons]
    columns[f"videos for {points:g} pt"] = [
        "-" if c.videos_needed is None else str(c.videos_needed) for c in comparisons
    ]
    for name, counts in (
        ("only in A", [c.only_a for c in comparisons]),
        ("only in B", [c.only_b for c in comparisons]),
        ("left out", [c.left_out for c in comparisons]),
        ("unparsed A", [c.unparsed_a for c in comparisons]),
        ("unparsed B", [c.unparsed_b for c in comparisons]),
    ):
        if any(counts):
            columns[name] = [str(count) for count in counts]
    heads = [f"both: {_words({n: v for n, v in constant['A'].items() if n in shared})}"]
    for side, of in constant.items():
        alone = {name: value for name, value in of.items() if name not in shared}
        heads += [f"{side}: {_words(alone)}"] if alone else []
    return heads, columns


def _words(traits: Mapping[str, Hashable]) -> str:
    words = {name: value_text(value) for name, value in traits.items()}
    return ", ".join(f"{name} {word}" for name, word in words.items() if word != "-")


def _interval(difference: Difference) -> str:
    d = difference
    return units.difference(d.value, d.low, d.high, identical=d.identical)


def unequal_bytes(comparisons: Sequence[Comparison]) -> str:
    """A warning where sides differ in bytes; empty where all are at equal KV bytes."""
    unequal = [comparison for comparison in comparisons if comparison.unequal_bytes]
    if not unequal:
        return ""
    most = max(unequal, key=lambda c: abs(c.kv_share_b - c.kv_share_a))
    return (
        f"KV bytes of A and B differ by more than 10 % in {len(unequal)} of {len(comparisons)} comparisons "
        f"(most: {units.percent(most.kv_share_a)} % and {units.percent(most.kv_share_b)} % of the uncompressed cache): "
        "these are not at equal KV bytes"
    )


def closing(comparisons: Sequence[Comparison]) -> str:
    """What the table leaves out, in one sentence."""
    lost = max(c.only_a + c.only_b for c in comparisons)
    uncounted = max(c.left_out for c in comparisons)
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


def untested(comparisons: Sequence[Comparison]) -> str:
    """What Holm's correction does not count; empty where all are tested."""
    count = sum(comparison.same_by_construction for comparison in comparisons)
    if not count:
        return ""
    return (
        f"{count} of {len(comparisons)} comparisons are of one and the same answers (every chunk has the same level on "
        "both sides, as at k = 0): not tested, and not counted by Holm."
    )
