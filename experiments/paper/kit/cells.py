"""Records -> cells, and how they are found: the one door between records and the figures of the experiments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from x2l.analysis.comparison import CellRecords, Comparison, compare
from x2l.analysis.points import FULL, Point, points
from x2l.runs.records import Record

FOUND_OUT = ("attention", "embedding", "retriever")  # selectors that may be had: nobody tells them


@dataclass(frozen=True)
class Cell:
    """One cell: its point, and the answers behind it."""

    point: Point
    records: tuple[Record, ...]


def cells(records: Iterable[Record]) -> list[Cell]:
    """The cells of an experiment, in the order of points.

    Raises:
        ValueError: no record, or of several models or benchmarks, which no figure here sets side by side.
    """
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        run, _, *cell = record.key
        groups[run, *cell].append(record)
    if not groups:
        raise ValueError("records: there are none; run the experiment first")
    found = [Cell(points(group)[0], tuple(group)) for group in groups.values()]
    for name in ("model", "benchmark", "protocol"):
        if len(values := sorted({getattr(cell.point, name) for cell in found})) > 1:
            raise ValueError(
                f"records: of several values of {name} ({', '.join(values)}); give each a folder of its own "
                "(hydra.sweep.dir=)"
            )
    order = {id(p): n for n, p in enumerate(_ordered([cell.point for cell in found]))}
    return sorted(found, key=lambda cell: order[id(cell.point)])


def _ordered(rows: Sequence[Point]) -> list[Point]:
    return sorted(
        rows, key=lambda p: (p.compressor, p.ratio_low, p.ratio_high, p.selector, k_of(p), p.run_id)
    )


def k_of(point: Point) -> float:
    """top_k as a number to sort by; words come after numbers, no k before them."""
    if isinstance(point.top_k, int):
        return point.top_k
    return -1 if point.top_k is None else float("inf")


def pick(found: Sequence[Cell], **wanted: Any) -> list[Cell]:
    """The cells whose points have these values; a tuple stands for any of its values."""

    def fits(cell: Cell) -> bool:
        for name, value in wanted.items():
            held = getattr(cell.point, name)
            if held not in (value if isinstance(value, tuple) else (value,)):
                return False
        return True

    return [cell for cell in found if fits(cell)]


def only(found: Sequence[Cell], **wanted: Any) -> Cell | None:
    """The cell with these values, None if there is none (a set that does not know where answers lie has no oracle).

    Raises:
        ValueError: there are several.
    """
    fitting = pick(found, **wanted)
    if len(fitting) > 1:
        asked = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise ValueError(
            f"records: {len(fitting)} cells with {asked}; the folder holds runs of other settings, too"
        )
    return fitting[0] if fitting else None


def full(found: Sequence[Cell]) -> Cell | None:
    """The control without compression."""
    return next((cell for cell in found if cell.point.control == FULL), None)


def compressors(found: Sequence[Cell]) -> list[str]:
    """Names of the methods: those that no control and no full KVs stand for."""
    shown = [cell.point for cell in found if cell.point.control != FULL]
    return sorted({p.compressor for p in shown if p.selector != "fewer_frames"})


def comparisons(pairs: Sequence[tuple[Cell, Cell]]) -> list[Comparison]:
    """Second minus first of each pair, paired by question, clustered by video, p values by Holm for all of them."""
    sides = [tuple(CellRecords({}, cell.records) for cell in pair) for pair in pairs]
    return compare([(a, b) for a, b in sides])
