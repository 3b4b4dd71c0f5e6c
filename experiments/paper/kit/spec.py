"""What a figure is, as data: panels x lines, pairs that are compared, columns of its tables, its finding and notes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from typing_extensions import override

from experiments.paper.kit.axes import Axis
from experiments.paper.kit.cells import Cells
from experiments.paper.kit.findings import Finding
from experiments.paper.kit.pairs import Pairs
from experiments.paper.kit.tables import TableSpec

SOURCED = Path(__file__).with_name("sourced.json")
Words = str | Callable[[Cells], str]


@dataclass(frozen=True)
class Reported:
    """Numbers that others reported, each with its source: `sourced.json`. None is from the paper's tables.

    Attributes:
        series: name in the file.
        marker: of its points.
        categories: what its points are called, on an axis of categories.
    """

    series: str
    marker: str = "o"
    categories: tuple[str, ...] = ()

    @property
    def entry(self) -> dict[str, Any]:
        """Label, source, names of x and y, points, and what must be known to read them."""
        return json.loads(SOURCED.read_text())[self.series]

    @property
    def note(self) -> str:
        """The series as a note below a figure."""
        pairs = ", ".join(f"{x:g}: {y:g}" for x, y in self.entry["points"])
        template = "Grey, hollow: {label} ({y} by {x}: {pairs}). {note} Source: {source}."
        return template.format(pairs=pairs, **self.entry)


@dataclass(frozen=True)
class Note:
    """What must be known to read a figure, where it holds.

    Attributes:
        text: whole sentences.
        where: it is shown if there are such cells.
        without: it is shown if there are none such.
    """

    text: str
    where: Mapping[str, Any] = field(default_factory=dict)
    without: Mapping[str, Any] | None = None

    def is_shown(self, cells: Cells) -> bool:
        """Whether it holds of some cells."""
        missing = self.without is None or not cells.where(**self.without)
        return bool(cells.where(**self.where)) and missing


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        draw: draws it.
        x: its lower axis; panels with the same one have the same range. None: of its own.
    """

    draw: Callable[[Axes], None]
    x: Axis | None = None


class PanelGroup(ABC):
    """Panels of one kind: a row, or several."""

    reported: tuple[Reported, ...] = ()

    @abstractmethod
    def rows(self, cells: Cells) -> list[list[Panel]]:
        """What draws each panel, row by row; an empty list where there is nothing to show."""


@dataclass(frozen=True)
class Beside(PanelGroup):
    """Groups of as many rows each, beside each other."""

    left: PanelGroup
    right: PanelGroup

    @property
    def reported(self) -> tuple[Reported, ...]:
        """Of both."""
        return *self.left.reported, *self.right.reported

    @override
    def rows(self, cells: Cells) -> list[list[Panel]]:
        rows = zip(self.left.rows(cells), self.right.rows(cells), strict=True)
        return [left + right for left, right in rows]


@dataclass(frozen=True)
class FigureSpec:
    """One figure with its tables and its sentence.

    Attributes:
        title: what was asked, as a heading.
        panels: from top to bottom.
        tables: the numbers behind it.
        finding: one sentence, made of numbers of the records.
        pairs: what is compared, all p values corrected together.
        needs: traits of cells without which nothing is to be seen.
        prepare: checks cells, or joins some to one.
        above: what is said above it beside set, model and sample, see `Cells.say`.
        notes: what must be known to read it; those of reported numbers are added.
        size: of a panel, inches.
        bars: what the bars through points are; empty: there are none.
    """

    title: str
    panels: tuple[PanelGroup, ...]
    tables: tuple[TableSpec, ...]
    finding: Finding
    pairs: tuple[Pairs, ...] = ()
    needs: tuple[Mapping[str, Any], ...] = ()
    prepare: Callable[[Cells], Cells] = lambda cells: cells
    above: Words = ""
    notes: tuple[str | Note, ...] = ()
    size: tuple[float, float] = (3.7, 3.0)
    bars: str = "95 % intervals, clustered by video"

    def reported(self) -> Iterable[Reported]:
        """What others reported, each series once."""
        return {r.series: r for group in self.panels for r in group.reported}.values()
