"""How cells are called: by what tells them apart among those they stand beside. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from x2l.analysis.points import FULL, Point, of_several_settings, telling_apart, told


@dataclass(frozen=True)
class Names:
    """Names of the cells of one sweep.

    Attributes:
        varying: the fields, beside compressor, selector and top_k, in which its cells differ.
        several: selectors whose settings must be told.
    """

    varying: tuple[str, ...]
    several: frozenset[str]

    def variant(self, point: Point) -> str:
        """What tells the cell apart beside compressor, selector and top_k; may be empty."""
        full = ("model", "benchmark", "protocol", "frames")  # of what full KVs depend on
        shown = [
            name
            for name in self.varying
            if (point.control != FULL or name in full)
            and (name != "selector_config" or point.selector in self.several)
        ]
        return " ".join(told(name, getattr(point, name)) for name in shown)

    def line(self, point: Point) -> str:
        """The cell without its top_k: what is drawn as one line."""
        if point.control == FULL:
            words = [FULL, self.variant(point)]
        else:
            words = [point.compressor, point.control or point.selector, self.variant(point)]
        return " ".join(filter(None, words))

    def cell(self, point: Point) -> str:
        """The cell."""
        line = self.line(point)
        return line if point.control or point.top_k is None else f"{line} k={point.top_k}"


def names(rows: Sequence[Point]) -> Names:
    """Names of some cells."""
    selecting = [row for row in rows if row.control != FULL] or list(rows)
    return Names(
        varying=tuple(telling_apart(selecting)),
        several=frozenset(of_several_settings([row for row in rows if not row.control])),
    )
