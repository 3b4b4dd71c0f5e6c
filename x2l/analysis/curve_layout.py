"""What of a sweep becomes a line, a colour and a panel of its curve. Pure; imports no matplotlib.

Whatever the cells differ in: one numeric trait is joined into lines, in numeric order; of the others those that leave
the fewest lines in a panel become colours, the rest panels, of which there are never more than asked for.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from x2l.analysis.cell_names import Names, names
from x2l.analysis.figure_style import (
    OTHERS,
    Style,
    compressor_styles,
    selector_styles,
    style_of_baseline,
)
from x2l.analysis.points import Point
from x2l.engine.top_k import order_key
from x2l.runs.condition import (
    FULL,
    Condition,
    choice_names,
    last_resorts,
    setting_names,
    trait_label,
)

MOST_LINES = 8  # of a panel that are told apart by colour
CHOICE = "choice"  # what chooses the chunks, as the others by name
Key = tuple[Hashable, ...]


@dataclass(frozen=True)
class Values:
    """What cells have of the traits that lines and panels are told apart by.

    Attributes:
        called: names of the cells.
        clashing: cells that nothing but traits of last resort tells from another: only they have those.
    """

    called: Names
    clashing: frozenset[Condition]

    def of(self, name: str, condition: Condition) -> Hashable:
        """The value of a trait, or of `choice`."""
        if name == CHOICE:
            return condition.baseline or self.called.choice(condition)
        if name in last_resorts() and condition not in self.clashing:
            return None
        return condition.traits.get(name)


@dataclass(frozen=True)
class Layout:
    """What stands where.

    Attributes:
        values: of the cells.
        joined: the numeric trait whose values a line joins; None: every line is a cell.
        hues: what lines are told apart by: traits, `choice` among them.
        columns: what panels are told apart by.
        panels: values of `columns`, one tuple a panel, in order.
        styles: looks of the lines by name.
        others: names of lines that are drawn alike, in grey: there are too many to tell apart.
        baselines_alone: whether nothing chooses chunks in any cell, so that lines are of all chunks at one level.
        compressors: of the cells that lines are of.
    """

    values: Values
    joined: str | None
    hues: tuple[str, ...]
    columns: tuple[str, ...]
    panels: tuple[Key, ...]
    styles: Mapping[str, Style]
    others: frozenset[str]
    baselines_alone: bool
    compressors: frozenset[str]

    def is_apart(self, condition: Condition) -> bool:
        """Whether it is of all chunks at one level by a compressor with which no cell chooses."""
        return condition.baseline not in (None, FULL) and (
            condition.compressor not in self.compressors
        )

    def joins(self, conditions: Sequence[Condition]) -> bool:
        """Whether a line may go through some cells: baselines beside others only where they differ in what it joins."""
        if not conditions[0].baseline or self.baselines_alone:
            return True
        places = {self.place(condition) for condition in conditions}
        return len(places) == len(conditions) and not any(map(math.isnan, places))

    def shows(self, condition: Condition, panel: Key) -> bool:
        """Whether a panel shows the cell; one without choice stands wherever what it depends on is equal."""
        ignored: tuple[str, ...] = ()
        if condition.baseline and not self.baselines_alone:
            ignored = (CHOICE, *choice_names())
        if condition.baseline == FULL:
            ignored = tuple(name for name in self.columns if name not in setting_names())
        wanted = zip(self.columns, panel, strict=True)
        return all(name in ignored or self.values.of(name, condition) == v for name, v in wanted)

    def line(self, condition: Condition) -> str:
        """Name of the line that the cell is of; what tells lines apart and nothing else."""
        return _words(self.hues, [self.values.of(name, condition) for name in self.hues])

    def style(self, condition: Condition) -> Style:
        """Of the cell's mark; where others choose, a baseline has its own mark, in the colour of what it shares."""
        name = self.line(condition)
        if self.baselines_alone and condition.baseline != FULL or not condition.baseline:
            return (
                replace(self.styles[name], line="--") if condition.is_bound else self.styles[name]
            )
        base = style_of_baseline(condition)
        if self.is_apart(condition):
            return Style(OTHERS, base.marker, ":")
        own = name in self.styles and condition.baseline != FULL
        return Style(self.styles[name].colour if own else base.colour, base.marker, ":")

    def order(self, condition: Condition) -> tuple[object, ...]:
        """Along its line."""
        return _order(self.joined or "", condition.traits.get(self.joined or ""))

    def title(self, panel: Key) -> str:
        """What is the same for all of a panel."""
        return _words(self.columns, panel)

    def place(self, condition: Condition) -> float:
        """Where the cell stands on an axis of the joined trait; NaN where it has none."""
        value = condition.traits.get(self.joined or "")
        return float(value) if isinstance(value, int | float) else math.nan


def layout(shown: Sequence[Point], most_panels: int) -> Layout:
    """How cells are drawn.

    Args:
        shown: that have an accuracy; at least one.
        most_panels: for one kind of compute.
    """
    conditions = list(dict.fromkeys(p.condition for p in shown))
    choosing = [c for c in conditions if not c.baseline]
    choosing = choosing or [c for c in conditions if c.baseline != FULL] or conditions
    values = _values(choosing)
    traits = ["compressor", CHOICE, *values.called.varying, "top_k"]
    differing = [n for n in traits if len({values.of(n, c) for c in choosing}) > 1]
    joined = _joined(differing, choosing, values)
    apart = [name for name in differing if name != joined]
    hues = _hues(apart, choosing, values, most_panels)
    columns = tuple(name for name in apart if name not in hues)
    panels = {tuple(values.of(name, c) for name in columns) for c in choosing}
    of_lines: dict[str, list[Condition]] = defaultdict(list)
    sort = {}
    for condition in choosing:
        key = [values.of(name, condition) for name in hues]
        of_lines[_words(hues, key)].append(condition)
        sort[_words(hues, key)] = [_order(n, v) for n, v in zip(hues, key, strict=True)]
    ordered = sorted(of_lines, key=sort.__getitem__)
    best = {
        name: max(p.accuracy for p in shown if p.condition in of) for name, of in of_lines.items()
    }
    told_apart = set(sorted(ordered, key=lambda name: -best[name])[:MOST_LINES])
    others = frozenset(ordered) - told_apart
    bounds = {name: all(c.is_bound for c in of_lines[name]) for name in ordered}
    looks = _styles([n for n in ordered if n in told_apart], hues, bounds, of_lines)
    return Layout(
        values,
        joined,
        hues,
        columns,
        tuple(
            sorted(panels, key=lambda p: [_order(n, v) for n, v in zip(columns, p, strict=True)])
        ),
        {name: looks.get(name, Style(OTHERS, "", "-")) for name in ordered},
        others,
        all(c.baseline for c in choosing),
        frozenset(c.compressor for c in choosing),
    )


def _values(conditions: Sequence[Condition]) -> Values:
    called = names(conditions)
    alike: dict[Key, list[Condition]] = defaultdict(list)
    for c in conditions:
        traits = [value for name, value in c.traits.items() if name not in last_resorts()]
        alike[(called.choice(c), c.baseline, *traits)].append(c)
    clashing = (c for group in alike.values() if len(group) > 1 for c in group)
    return Values(called, frozenset(clashing))


def _words(names_: Sequence[str], values: Sequence[Hashable]) -> str:
    return " ".join(
        filter(
            None,
            (
                str(v) if n == CHOICE else trait_label(n, v)
                for n, v in zip(names_, values, strict=True)
            ),
        )
    )


def _order(name: str, value: Hashable) -> tuple[object, ...]:
    """Numbers by size, before words."""
    if name == "top_k":
        assert value is None or isinstance(value, int | str)
        return (0, *order_key(value))
    if isinstance(value, int | float):
        return 0, value, ""
    return 1, 0, str(value)


def _is_numeric(name: str, conditions: Sequence[Condition]) -> bool:
    """Whether a trait is one of the axes of numbers; top_k is one in all its forms, a dropped level has no ratio."""
    if name == "top_k":
        return True
    if name not in ("chunk_frames", "frames", "fps") and not name.startswith("ratio."):
        return False
    values = [c.traits.get(name) for c in conditions]
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _joined(
    differing: Sequence[str], conditions: Sequence[Condition], values: Values
) -> str | None:
    """The numeric trait of which the longest line can be drawn; of equals top_k, then the coarsest ratio."""
    best, most = None, 1
    numeric = [name for name in differing if _is_numeric(name, conditions)]
    coarsest = f"ratio.{conditions[0].levels[-1].name}"
    numeric.sort(key=lambda name: (name != "top_k", name != coarsest))
    for name in numeric:
        lines: dict[Key, set[Hashable]] = defaultdict(set)
        for c in conditions:
            rest = tuple(values.of(n, c) for n in differing if n != name)
            lines[rest].add(c.traits.get(name))
        longest = max(map(len, lines.values()))
        if longest > most:
            best, most = name, longest
    return best


def _hues(
    apart: Sequence[str], conditions: Sequence[Condition], values: Values, most_panels: int
) -> tuple[str, ...]:
    """Which traits lines are told apart by: few, so that few lines stand in a panel, and settings only if they must."""
    if not apart:
        return (CHOICE,)
    by_rank = sorted(
        apart, key=lambda name: (name != CHOICE, name != "compressor", apart.index(name))
    )
    candidates = [of for count in range(1, len(apart) + 1) for of in combinations(by_rank, count)]
    candidates.append((CHOICE,))  # nothing of what tells them apart: each has a panel

    def score(hues: tuple[str, ...]) -> tuple[float, ...]:
        lines: dict[Key, set[Key]] = defaultdict(set)
        for c in conditions:
            panel = tuple(values.of(n, c) for n in apart if n not in hues)
            lines[panel].add(tuple(values.of(n, c) for n in hues))
        return (
            max(0, len(lines) - most_panels),
            sum(name in setting_names() for name in hues),
            max(0, max(map(len, lines.values())) - MOST_LINES),
            len(hues),
        )

    return min(candidates, key=score)  # the first of equals


def _styles(
    shown: Sequence[str],
    hues: Sequence[str],
    bounds: Mapping[str, bool],
    of_lines: Mapping[str, Sequence[Condition]],
) -> dict[str, Style]:
    if hues[0] == CHOICE:
        looks = selector_styles({name: "bound" if bounds[name] else "method" for name in shown})
    else:
        looks = compressor_styles(shown)
    for name in shown:
        first = of_lines[name][0]
        if hues == (CHOICE,) and first.baseline:
            base = style_of_baseline(first)
            looks[name] = Style(base.colour, base.marker, ":")
        elif bounds[name]:
            looks[name] = Style(looks[name].colour, looks[name].marker, "--")
    return looks
