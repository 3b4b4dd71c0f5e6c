"""Needle in a haystack: accuracy by length of the video and depth of the needle, a heat map a system and compressor.

Length is the video's (`duration`), depth the middle of the ground-truth chunks as a share of all chunks, both from the
records; questions with several ground-truth chunks count at their mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

import numpy as np
from typing_extensions import override

from experiments.paper import kit
from x2l.analysis.scoring import headline
from x2l.runs.records import Record

SYSTEMS = ("all-low", "all-high", "random", "attention", "oracle")
OTHERS = ("theirs, 32x", "theirs, 2x + 32x", "theirs, 2x + 16x")
DEPTHS = 4  # bins; every one is a whole number of chunks from four chunks on
MOST_LENGTHS = 6


def depth(record: Record) -> int | None:
    """Bin of the needle's place in the video, 0 at its beginning; None where the set does not say."""
    if not record.question.gt_chunks:
        return None
    chunks = len(record.selection.assigned)
    middle = fmean(chunk + 0.5 for chunk in record.question.gt_chunks) / chunks
    return min(DEPTHS - 1, int(middle * DEPTHS))


def lengths(records: Sequence[Record]) -> list[float]:
    """Upper ends of the columns, seconds: the lengths there are; their quantiles where they are many."""
    seconds = [record.video.duration for record in records]
    rounded = sorted({float(round(length)) for length in seconds})
    if len(rounded) <= MOST_LENGTHS:
        return rounded
    cuts = np.quantile(seconds, np.linspace(0, 1, MOST_LENGTHS + 1))
    return sorted({float(math.ceil(cut)) for cut in cuts[1:]})


def column(record: Record, ends: Sequence[float]) -> int:
    """Of a record's length."""
    return next(n for n, end in enumerate(ends) if round(record.video.duration) <= end)


def all_records(cells: kit.Cells) -> list[Record]:
    """Of all cells."""
    return [record for cell in cells for record in cell.records]


def grid(cell: kit.Cell, cells: kit.Cells) -> kit.Grid:
    """Accuracy of a cell by depth and length; one row where no depth is known."""
    records = all_records(cells)
    ends = lengths(records)
    rows = DEPTHS if any(record.question.gt_chunks for record in records) else 1
    right, questions = np.zeros((rows, len(ends))), np.zeros((rows, len(ends)), dtype=int)
    for record in cell.records:
        place = depth(record) or 0, column(record, ends)
        right[place] += record.answer.correct or 0.0
        questions[place] += 1
    with np.errstate(invalid="ignore"):
        share = 100 * right / questions
    edges = [100 * row // rows for row in range(rows + 1)]
    return kit.Grid(share, questions, edges, ends)


def pooled(cells: kit.Cells) -> kit.Cells:
    """One cell for each compressor and system, over runs of several lengths (and so of several numbers of frames).

    Raises:
        ValueError: cells of one system differ in more than length, or answer a question twice.
    """
    records = [
        replace(record, condition=replace(record.condition, run_id="", frames=None))
        for record in all_records(cells.where(system=SYSTEMS))
    ]
    if repeated := len(records) - len({record.key for record in records}):
        raise ValueError(
            f"records: {repeated} questions are answered more than once by one system, which a map would mix; give "
            "each run of the same questions a folder of its own (hydra.sweep.dir=)"
        )
    every = kit.cells_of(records)
    names = every.values("compressor")
    both = [every.only(compressor=name, system=system) for name in names for system in SYSTEMS]
    return kit.Cells(filter(None, both))


def finding(cells: kit.Cells, tested: kit.Family) -> str:
    """Of the shortest and the longest videos, and what the oracle adds."""
    ends = lengths(all_records(cells))
    parts = []
    for name in cells.values("compressor"):
        words, added = [], ""
        for cell in cells.where(compressor=name, system=SYSTEMS[1:]):
            by_length = [
                [r for r in cell.records if column(r, ends) == n] for n in range(len(ends))
            ]
            shares = [f"{100 * headline(by_length[n]).value:.0f} %" for n in (0, -1)]
            words.append(f"{cell['label'].removesuffix(' (bound)')} {' and '.join(shares)}")
            if pair := tested.to(cell):
                added = f" (over all lengths oracle minus all-high {pair.difference})"
        parts.append(f"{name}: {kit.listed(words)}{added}")
    behind = kit.behind(cells, tested).strip("()").replace(", ", " on ", 1)
    return f"At {ends[0]:g} s and {ends[-1]:g} s, {'; '.join(parts)}; {behind}."


@dataclass(frozen=True)
class Places(kit.TableSpec):
    """A row for each compressor, system and depth."""

    @override
    def table(self, cells: kit.Cells, tested: kit.Family) -> kit.Table:
        rows = []
        for cell in cells:
            of_cell = grid(cell, cells)
            for n, (start, end) in enumerate(pairwise(of_cell.edges)):
                places = zip(of_cell.accuracy[n], of_cell.questions[n], strict=True)
                texts = [f"{share:.0f} ({count})" if count else "-" for share, count in places]
                rows.append((cell["compressor"], cell["label"], f"{start} to {end} %", *texts))
        header = ("compressor", "system", "depth", *(f"{end:g} s" for end in of_cell.columns))
        caption = "Accuracy % (questions) by depth of the needle and length of the video"
        return kit.Table(caption, header, tuple(rows), words=3)


MEANS = kit.Panels(
    kit.ACCURACY,
    (kit.Lines({"system": SYSTEMS}, label=""),),
    kit.over_trait("", "system", SYSTEMS),
    title="all places",
    reported=(kit.Reported("haystack", categories=OTHERS),),
    stacked=True,
)
SPEC = kit.FigureSpec(
    title="Needle in a haystack: length and depth",
    panels=(
        kit.Beside(kit.HeatMaps(SYSTEMS, grid, "length (s)", "depth of the needle (%)"), MEANS),
    ),
    prepare=pooled,
    pairs=(kit.Pairs({"system": "oracle"}, {"system": "all-high"}),),
    tables=(Places(),),
    finding=finding,
    size=(2.15, 2.25),
)
