"""Tables as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "²": r"\textsuperscript{2}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
}


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


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its caption above."""
    rules = ["---"] * table.words + ["---:"] * (len(table.header) - table.words)
    lines = [table.header, rules, *table.rows]
    shown = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"{table.caption}.", "", *shown, ""])


def latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs; values are escaped."""
    columns = "l" * table.words + "r" * (len(table.header) - table.words)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(table.caption)}.}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _row(table.header),
            r"\midrule",
            *map(_row, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
