"""What an experiment's module makes of its records, and how it is written: PNG, PDF, Markdown, LaTeX, a sentence."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments.paper.kit.tables import Table, latex, markdown
from x2l.analysis.collect import records_under
from x2l.analysis.figure_style import RC
from x2l.runs.records import Record

DPI = 125


@dataclass(frozen=True)
class Result:
    """One experiment as a reader sees it.

    Attributes:
        title: what was asked, as a heading.
        figure: the picture.
        tables: the numbers behind it.
        finding: one sentence, made of numbers of the records.
        notes: what must be known to read it: what is drawn from elsewhere, what was not run.
    """

    title: str
    figure: Figure
    tables: tuple[Table, ...]
    finding: str
    notes: tuple[str, ...] = ()


Make = Callable[[Sequence[Record]], Result]


def made(make: Make, records: Sequence[Record]) -> Result:
    """The result, drawn in the type and colours of all figures."""
    with matplotlib.rc_context(RC):
        return make(records)


def write(result: Result, name: str, out: Path) -> list[Path]:
    """Writes figures/NAME.png, .pdf and tables/NAME.md, .tex under a folder; equal records give equal bytes.

    Returns:
        The files.
    """
    files = [out / "figures" / f"{name}.png", out / "figures" / f"{name}.pdf"]
    files += [out / "tables" / f"{name}.md", out / "tables" / f"{name}.tex"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(RC):
        result.figure.savefig(files[0], dpi=DPI, pil_kwargs={"optimize": True})
        result.figure.savefig(files[1], metadata={"CreationDate": None})
    told = f"{result.finding}\n\n" + "\n".join(map(markdown, result.tables))
    files[2].write_text(f"# {result.title}\n\n{told}")
    files[3].write_text("\n".join(map(latex, result.tables)))
    return files


def main(name: str, make: Make, arguments: Sequence[str] | None = None) -> None:
    """`python -m experiments.paper.figures.NAME FOLDER [--out FOLDER]`."""
    parser = argparse.ArgumentParser(prog=f"experiments.paper.figures.{name}")
    parser.add_argument("folder", type=Path, nargs="+", help="a sweep, or several")
    parser.add_argument("--out", type=Path, help="default: the first folder")
    given = parser.parse_args(arguments)
    try:
        result = made(make, records_under(given.folder))
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    files = write(result, name, given.out or given.folder[0])
    print(files[2].read_text(), *result.notes, "", *files, sep="\n")
