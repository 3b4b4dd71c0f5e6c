"""Findings: sentences filled in with numbers of the records. Nothing judges: what is written is what was counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.paper.kit.cells import Cells
from experiments.paper.kit.pairs import LEVEL, Family

Finding = Callable[[Cells, Family], str]


@dataclass(frozen=True)
class EachPair:
    """A sentence that goes through some pairs.

    Attributes:
        template: of a pair, with traits of its cells and what it says in braces.
        where: traits of `after`.
        before: traits of the other.
        names: of the pairs; empty: any.
        start: what the sentence begins with.
        nothing: the sentence where there is no such pair.
    """

    template: str
    where: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    start: Callable[[Cells], str] = lambda cells: ""
    nothing: str = "Nothing is compared"

    def __call__(self, cells: Cells, tested: Family) -> str:
        """The sentence."""
        after, before = cells.where(**self.where), cells.where(**self.before)
        pairs = [pair for pair in tested.pairs if pair.after in after and pair.before in before]
        pairs = [pair for pair in pairs if not self.names or pair.name in self.names]
        pairs.sort(key=lambda pair: pair.after["compressor"])
        if not pairs:
            return f"{self.nothing} {behind(cells)}."
        parts = "; ".join(self.template.format_map(pair) for pair in pairs)
        return f"{self.start(cells)}{parts} {behind(cells, tested)}."


@dataclass(frozen=True)
class Spread:
    """How many of all paired differences are told from zero, and the largest.

    Attributes:
        start: what is compared.
        template: says a cell, with its traits in braces.
    """

    start: str
    template: str

    def __call__(self, cells: Cells, tested: Family) -> str:
        """The sentence."""
        most = max(tested.pairs, key=lambda pair: abs(pair.compared.headline.value))
        return (
            f"{self.start}, {sum(pair.is_clear for pair in tested.pairs)} of {len(tested)} paired differences are told "
            f"from zero (p < {LEVEL:g}, Holm over {len(tested)}); the largest is that of "
            f"{self.template.format_map(most)}: {most.before['accuracy']} % to {most.after['accuracy']} %, "
            f"{most.points} points, {most.p_value} {behind(cells)}."
        )


def behind(cells: Cells, tested: Family | None = None) -> str:
    """What stands behind a finding, in brackets."""
    words = f"; p values by Holm over {len(tested)}" if tested else ""
    return f"({cells[0]['sample']}{words})"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
