"""What becomes of a figure's records, and how it is written: PNG, PDF, Markdown, LaTeX, a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments.paper.kit.cells import Cells, cells_of, check_one_run
from experiments.paper.kit.pairs import family
from experiments.paper.kit.remarks import spread
from experiments.paper.kit.spec import FigureSpec, Note
from experiments.paper.kit.tables import Table, latex, markdown
from x2l.analysis.figure_style import RC
from x2l.analysis.plotting import panels
from x2l.runs.records import Record

DPI = 125
LONG_LABEL = 60  # letters; three such do not stand beside each other


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


def result_of(spec: FigureSpec, records: Iterable[Record]) -> Result:
    """Draws, compares and counts what a figure says.

    Raises:
        ValueError: records that do not belong together, or of which the figure needs others as well.
    """
    cells = cells_of(records)
    for traits in spec.needs:
        if not cells.where(**traits):
            words = ", ".join(traits)
            raise ValueError(
                f"records: none with the {words} that the figure needs; run all of the experiment"
            )
    cells = spec.prepare(cells)
    check_one_run(cells)
    tested = family(pair for pairs in spec.pairs for pair in pairs.of(cells))
    notes = [Note(note) if isinstance(note, str) else note for note in spec.notes]
    with matplotlib.rc_context(RC):
        figure = draw(spec, cells)
    return Result(
        spec.title,
        figure,
        tuple(table.table(cells, tested) for table in spec.tables),
        spec.finding(cells, tested),
        (
            *(note.text for note in notes if note.is_shown(cells)),
            *(r.note for r in spec.reported()),
        ),
    )


def draw(spec: FigureSpec, cells: Cells) -> Figure:
    """The picture: panels, one legend below them, and above them what they are of."""
    rows = [row for group in spec.panels for row in group.rows(cells) if row]
    columns = max(map(len, rows))
    figure, grid = panels(len(rows), columns, (1, 1))
    for row, row_of_axes in zip(rows, grid, strict=True):
        for panel, axes in zip(row, row_of_axes, strict=True):
            panel.draw(axes)
    drawn = list(zip(chain(*rows), chain(*grid), strict=True))
    for x in {id(panel.x): panel.x for panel, _ in drawn if panel.x is not None}.values():
        x.share([axes for panel, axes in drawn if panel.x is x])
    point = max((cell.point for cell in cells), key=lambda p: (p.questions, p.videos))
    more = spec.above(cells) if callable(spec.above) else cells.say(spec.above)
    words = [point.condition.benchmark, point.condition.model]
    words += [f"{point.questions} questions on {point.videos} videos", more]
    figure.suptitle(" · ".join(filter(None, words)), fontsize=9)
    lines = legend(figure, spec.bars, any(cell.condition.is_bound for cell in cells))
    width, height = spec.size
    figure.set_size_inches(0.4 + width * columns, 0.4 + 0.16 * lines + height * len(rows))
    spread(figure)
    return figure


def legend(figure: Figure, bars: str, has_bounds: bool) -> int:
    """Each label once, what others reported last, and what bars and dashes are; returns how many lines it has."""
    rows = [c[0] for axes in figure.axes for c in axes.containers]
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(handles, key=lambda label: ("Video-XL" in label, "guessing" in label))
    words = [f"bars: {bars}"] if bars else []
    dashed = (row for row in rows if row.get_linestyle() == "--" and len(row.get_xdata()) > 1)
    if has_bounds and any(dashed):
        words.append("dashed: bounds, which are told where the answer lies")
    columns = 2 if max(map(len, labels), default=0) > LONG_LABEL else 3
    figure.legend(
        [handles[label] for label in labels],
        labels,
        title="; ".join(words),
        loc="outside lower center",
        ncols=columns,
        fontsize=7,
        title_fontsize=7,
        frameon=False,
    )
    return 1 + math.ceil(len(labels) / columns)


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
    tables = "\n".join(map(markdown, result.tables))
    files[2].write_text(f"# {result.title}\n\n{result.finding}\n\n{tables}")
    files[3].write_text("\n".join(map(latex, result.tables)))
    return files
