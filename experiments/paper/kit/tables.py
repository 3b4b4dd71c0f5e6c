"""Tables of cells or pairs of cells; as Markdown and LaTeX."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tabulate import LATEX_ESCAPE_RULES, tabulate
from typing_extensions import override

from experiments.paper.kit.cells import Cell, Cells
from experiments.paper.kit.pairs import Family, Pair


@dataclass(frozen=True)
class Table:
    """One table; words stand left, numbers right.

    Attributes:
        caption: one line, without a full stop.
        header: one name a column.
        rows: as many cells each.
        words: how many columns, from the left, hold words.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def __post_init__(self) -> None:
        """Checks that every row fits.

        Raises:
            ValueError: a row is longer or shorter than the header.
        """
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"rows: {row} has {len(row)} cells, header has {len(self.header)}")

    def text(self, style: str) -> str:
        """The rows, in a style of tabulate's."""
        numbers = len(self.header) - self.words
        return tabulate(
            self.rows,
            self.header,
            tablefmt=style,
            disable_numparse=True,
            colalign=("left",) * self.words + ("right",) * numbers,
        )


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its caption above."""
    rows = tuple(tuple(cell.replace("|", r"\|") for cell in row) for row in table.rows)
    return f"{table.caption}.\n\n{replace(table, rows=rows).text('pipe')}\n"


def latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs; values are escaped."""
    caption = "".join(LATEX_ESCAPE_RULES.get(character, character) for character in table.caption)
    start = "\\begin{table}\n\\centering\n\\caption{" + caption + ".}\n"
    return f"{start}{table.text('latex_booktabs')}\n\\end{{table}}\n"


class TableSpec(ABC):
    """What a table of cells says."""

    @abstractmethod
    def table(self, cells: Cells, tested: Family) -> Table:
        """The table."""


@dataclass(frozen=True)
class Rows(TableSpec):
    """A row for each of some cells, or for each pair.

    Attributes:
        caption: with `{sample}` for the number of questions and videos, `{stars}` for what the stars mean, and traits.
        header: names of the columns, between bars.
        row: what they say, between bars: traits of cells and what a `Pair` says, in braces.
        words: how many columns, from the left, hold words.
        where: traits of the cells that have a row; None: a row is a pair.
        order: what rows of cells are sorted by; None: as cells are.
        name: of the pairs that give a row its difference; None: any.
        texts: what else stands in braces, of a cell by name.
        unpaired: traits of cells that have a row of their own where no pair has them.
    """

    caption: str
    header: str
    row: str
    words: int = 1
    where: Mapping[str, Any] | None = None
    order: Callable[[Cell], Any] | None = None
    name: str | None = None
    texts: Mapping[str, Callable[[Cell], str]] = field(default_factory=dict)
    unpaired: Mapping[str, Any] | None = None

    @override
    def table(self, cells: Cells, tested: Family) -> Table:
        if self.where is None:
            rows = list(tested.pairs)
            paired = {cell for pair in rows for cell in (pair.before, pair.after)}
            others = cells.where(**self.unpaired) if self.unpaired else ()
            rows += [Pair(cell, None) for cell in others if cell not in paired]
        else:
            chosen = sorted(cells.where(**self.where), key=self.order or cells.index)
            rows = [tested.to(cell, self.name) or Pair(None, cell) for cell in chosen]
        lines = [self._line(row, tested) for row in rows]
        caption = caption_of(self.caption, cells, tested)
        return Table(caption, tuple(self.header.split(" | ")), tuple(lines), self.words)

    def _line(self, row: Pair, tested: Family) -> tuple[str, ...]:
        texts: dict[str, Any] = {
            name: text(row.after or row.before) for name, text in self.texts.items()
        }
        against = {pair.name: pair.gap for pair in tested.pairs if pair.after is row.after}
        texts["against"] = defaultdict(lambda: "-", against)
        return tuple(self.row.format_map(ChainMap(texts, row)).split(" | "))


@dataclass(frozen=True)
class Pivot(TableSpec):
    """A row for each combination of some traits, columns for each value of another.

    Attributes:
        caption: see `Rows`.
        by: traits of the rows; the first columns, all of them words.
        over: the trait of the columns; its values in the order of `values`, or sorted.
        header: names of the columns of a value, between bars.
        row: what they say, see `Rows`.
        values: of `over`.
        texts: further columns before them, of the first cell of a row.
        order: of the rows, by their traits.
    """

    caption: str
    by: tuple[str, ...]
    over: str
    header: str
    row: str
    values: tuple[Any, ...] = ()
    texts: Mapping[str, Callable[[Cell], str]] = field(default_factory=dict)
    order: Callable[[tuple[Any, ...]], Any] = tuple

    @override
    def table(self, cells: Cells, tested: Family) -> Table:
        values = [
            v for v in self.values or cells.values(self.over) if cells.where(**{self.over: v})
        ]
        header = [self.header.format_map({self.over: v}).split(" | ") for v in values]
        rows = []
        for key in sorted(
            {tuple(cell[name] for name in self.by) for cell in cells}, key=self.order
        ):
            group = cells.where(**dict(zip(self.by, key, strict=True)))
            row = [*key, *(text(group[0]) for text in self.texts.values())]
            for value in values:
                cell = group.only(**{self.over: value})
                pair = (tested.to(cell) if cell else None) or Pair(None, cell)
                row += self.row.format_map(pair).split(" | ")
            rows.append(tuple(row))
        names = (*self.by, *self.texts, *(name for names in header for name in names))
        return Table(caption_of(self.caption, cells, tested), names, tuple(rows), len(self.by))


def caption_of(template: str, cells: Cells, tested: Family) -> str:
    """A caption; the sample is that of the first cell, as all answer the same questions."""
    filled = template.replace("{sample}", cells[0]["sample"]).replace("{stars}", tested.stars)
    return cells.say(filled)
