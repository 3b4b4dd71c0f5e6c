"""Numbers as the findings and tables say them. Nothing here judges: what is written is what was counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.paper.kit.cells import Cell, comparisons
from x2l.analysis.comparison import Comparison

LEVEL = 0.05  # of p values, after Holm's correction


def percent(share: float, digits: int = 1) -> str:
    """A share as per cent."""
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f}"


def accuracy(cell: Cell) -> str:
    """`39.2 (34.2 to 44.4)`, in per cent."""
    p = cell.point
    return f"{percent(p.accuracy)} ({percent(p.low)} to {percent(p.high)})"


def points_of(found: Comparison) -> str:
    """`+12.5 (3.1 to 21.9)`: a difference with its interval, in points."""
    d = found.headline
    return f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})"


def marked(found: Comparison) -> str:
    """The difference, starred where it is told from zero."""
    return points_of(found) + ("*" if found.p_holm < LEVEL else "")


def stars(count: int, of: str = "of this table") -> str:
    """What a caption says of those stars."""
    return f"* p < {LEVEL:g}, Holm over the {count} {of}"


def p_value(p: float) -> str:
    """`p < 0.001`, or with two digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


@dataclass(frozen=True)
class Family:
    """Every paired difference of an experiment, in its table and its finding: one correction for both.

    Attributes:
        pairs: (without, with); their difference is with minus without.
        found: what each comes to, p values corrected for all of them by Holm's rule.
    """

    pairs: tuple[tuple[Cell, Cell], ...]
    found: tuple[Comparison, ...]

    @property
    def told(self) -> str:
        """What a finding says of its p values."""
        return f"p values by Holm over {len(self.found)}"

    def of(self, before: Cell, after: Cell) -> Comparison | None:
        """After minus before; None if that is none of the pairs."""
        for pair, found in zip(self.pairs, self.found, strict=True):
            if pair[0] is before and pair[1] is after:
                return found
        return None

    def difference(self, after: Cell, before: Cell) -> str:
        """`+12.5 points (95 % interval +3.1 to +21.9, p = 0.01)`: after minus before.

        Raises:
            ValueError: the two are no pair of the family, so its correction does not cover them.
        """
        found = self.of(before, after)
        if found is None:
            raise ValueError(
                f"after={name_of(after)}, before={name_of(before)}: not of the {len(self.pairs)} pairs that were "
                "corrected together; give them to family()"
            )
        d = found.headline
        return (
            f"{100 * d.value:+.1f} points (95 % interval {100 * d.low:+.1f} to {100 * d.high:+.1f}, "
            f"{p_value(found.p_holm)})"
        )


def family(pairs: Sequence[tuple[Cell, Cell]]) -> Family:
    """The differences of (without, with), corrected together; a pair that is given twice counts once."""
    own = tuple({(id(a), id(b)): (a, b) for a, b in pairs}.values())
    return Family(own, tuple(comparisons(own)))


def spread(pairs: Sequence[tuple[Cell, Cell]], name: Callable[[Cell], str]) -> str:
    """How many of some paired differences are told from zero, and the largest.

    Args:
        pairs: (without, with); their difference is with minus without.
        name: of a cell, beside its compressor.
    """
    found = comparisons(pairs)
    clear = sum(one.p_holm < LEVEL for one in found)
    most = max(range(len(found)), key=lambda at: abs(found[at].headline.value))
    (before, after), gap = pairs[most], found[most]
    return (
        f"{clear} of {len(found)} paired differences are told from zero (p < {LEVEL:g}, Holm over {len(found)}); "
        f"the largest is that of {after.point.compressor}, {name(after)}: {percent(before.point.accuracy)} % to "
        f"{percent(after.point.accuracy)} %, {points_of(gap)} points, {p_value(gap.p_holm)}"
    )


def asked(cell: Cell) -> str:
    """How much stands behind a cell."""
    return f"{cell.point.n} questions, {cell.point.videos} videos"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def name_of(cell: Cell) -> str:
    """A cell in a row of a table: control, or selector and k."""
    p = cell.point
    return p.control or f"{p.selector}, k = {p.top_k}"
