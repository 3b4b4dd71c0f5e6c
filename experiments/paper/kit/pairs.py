"""Paired differences: which cells are compared, and what it comes to, p values corrected for all of an experiment."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.paper.kit.cells import Cell, Cells
from x2l.analysis import units
from x2l.analysis.comparison import CellRecords, Comparison, compare

LEVEL = 0.05  # of p values, after Holm's correction
NOTHING: Mapping[str, str] = defaultdict(lambda: "-")  # the traits of no cell


@dataclass(frozen=True)
class Pairs:
    """Each of some cells with the one that it is compared with.

    Attributes:
        after: traits of the cells, see `Cells.where`.
        before: traits of the others; a function is given the cell and returns what `where` takes.
        same: traits that both share.
        name: of the comparison, where a table has a column for each.
        times_bytes: of the others, the one with the fewest KV bytes that are at least so many times those of the cell,
            what its selector keeps included; None: there must be only one.
    """

    after: Mapping[str, Any]
    before: Mapping[str, Any]
    same: tuple[str, ...] = ("compressor",)
    name: str = ""
    times_bytes: float | None = None

    def of(self, cells: Cells) -> list[Pair]:
        """The pairs there are, without differences yet."""
        return [
            Pair(before, after, self.name)
            for after in cells.where(**self.after)
            if (before := self._before(cells, after)) not in (None, after)
        ]

    def _before(self, cells: Cells, after: Cell) -> Cell | None:
        traits = {name: after[name] for name in self.same}
        traits |= {k: v(after) if callable(v) else v for k, v in self.before.items()}
        if self.times_bytes is None:
            return cells.only(**traits)
        least = self.times_bytes * after["bytes"]
        others = [cell for cell in cells.where(**traits) if cell["bytes"] >= least]
        return min(others, key=lambda cell: cell["bytes"], default=None)


@dataclass(frozen=True)
class Pair:
    """Two cells, and what `after` has more than `before`; one of them None where nothing is compared.

    `pair["k"]` is a trait of `after`, `pair["before"]["k"]` of the other, and `gap` and `difference` say the
    difference: so that templates can name them.
    """

    before: Cell | None
    after: Cell | None
    name: str = ""
    compared: Comparison | None = None

    def __getitem__(self, name: str) -> Any:
        """What a template may name."""
        if name == "before":
            return self.before or NOTHING
        return getattr(self, name) if hasattr(self, name) else (self.after or NOTHING)[name]

    @property
    def is_clear(self) -> bool:
        """Whether the difference is told from zero."""
        return self.compared is not None and self.compared.p_holm < LEVEL

    @property
    def points(self) -> str:
        """`+12.5 (3.1 to 21.9)`: the difference with its interval, in points; `-` where nothing is compared."""
        if self.compared is None:
            return "-"
        d = self.compared.headline
        return units.difference(d.value, d.low, d.high, identical=d.identical)

    @property
    def gap(self) -> str:
        """The same, starred where it is told from zero."""
        return self.points + "*" * self.is_clear

    @property
    def p_value(self) -> str:
        """`p < 0.001`, or with two digits; `not tested` where both cells are one by construction."""
        p = self.compared.p_holm
        if math.isnan(p):
            return "not tested"
        return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"

    @property
    def difference(self) -> str:
        """`+12.5 points (95 % interval +3.1 to +21.9, p = 0.01)`."""
        value, _, interval = self.points.partition(" (")
        words = value if self.compared.headline.identical else f"{value} points"
        return f"{words} (95 % interval {interval.removesuffix(')')}, {self.p_value})"


@dataclass(frozen=True)
class Family:
    """Every paired difference of an experiment, in its tables and its finding: one correction for all."""

    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        """How many differences are corrected together: two pairs of the same cells are one, one answer is none."""
        tested = (pair for pair in self.pairs if not pair.compared.same_by_construction)
        return len({(pair.before, pair.after) for pair in tested})

    def to(self, after: Cell, name: str | None = None) -> Pair | None:
        """The first pair that ends in a cell, of a name if one is given; None if there is none."""
        pairs = (pair for pair in self.pairs if pair.after is after and name in (None, pair.name))
        return next(pairs, None)

    @property
    def stars(self) -> str:
        """What a caption says of the stars."""
        return f"* p < {LEVEL:g}, Holm over the {len(self)}"


def family(pairs: Iterable[Pair]) -> Family:
    """The differences of some pairs, corrected together."""
    pairs = list(pairs)
    unique = list(dict.fromkeys((pair.before, pair.after) for pair in pairs))
    sides = [[CellRecords(cell.condition, cell.records) for cell in cells] for cells in unique]
    compared = dict(zip(unique, compare([(a, b) for a, b in sides]), strict=True))
    return Family(tuple(replace(p, compared=compared[p.before, p.after]) for p in pairs))
