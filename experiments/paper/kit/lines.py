"""Panels of lines: one measure over another, or over a setting, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from typing_extensions import override

from experiments.paper.kit.axes import ACCURACY, Axis
from experiments.paper.kit.cells import Cell, Cells
from experiments.paper.kit.remarks import REMARK
from experiments.paper.kit.spec import Panel, PanelGroup, Reported
from x2l.analysis import figure_style
from x2l.analysis.curve_legend import CHANCE
from x2l.analysis.figure_style import COLOURS, MARKERS, OTHERS, SOFT, Style


@dataclass(frozen=True)
class Lines:
    """Some lines of a panel: one for each combination of the values of some traits.

    Attributes:
        where: traits of their cells.
        split: traits that have a line for each value; in the order of the values in `where`, or sorted.
        label: for the legend, with traits of a line's cells in braces; or a function of the first.
        colour: the trait that colour and marker say: `system`, `compressor`, `alike_by`, or one whose values have
            colours by order.
        variant: the trait whose values after the first have open markers and dotted lines.
        style: instead of that of the trait.
        tint: a colour instead of that of the style.
        joined: how points are joined, instead of as the style says: `-`, `:`; empty: not.
        everywhere: the same in every panel, whatever the panel is of.
        across: lines across the panel, at the measure of the first cell of each.
        remark: beside each point, with traits in braces.
    """

    where: Mapping[str, Any] = field(default_factory=dict)
    split: tuple[str, ...] = ("system",)
    label: str | Callable[[Cell], str] = "{label}"
    colour: str = "system"
    variant: str = ""
    style: Style | None = None
    tint: str | None = None
    joined: str | None = None
    everywhere: bool = False
    across: bool = False
    remark: str = ""

    def groups(self, panel: Cells, cells: Cells) -> list[Cells]:
        """The cells of each line, of a panel or of all."""
        chosen = (cells if self.everywhere else panel).where(**self.where)
        values = [self._values(trait, chosen) for trait in self.split]
        traits = [dict(zip(self.split, key, strict=True)) for key in product(*values)]
        return [group for some in traits if (group := chosen.where(**some))]

    def _values(self, trait: str, cells: Cells) -> list[Any]:
        wanted, present = self.where.get(trait), cells.values(trait)
        return [v for v in wanted if v in present] if isinstance(wanted, tuple) else present

    def said(self, cell: Cell) -> str:
        """The label of a line with this cell."""
        return self.label(cell) if callable(self.label) else self.label.format_map(cell)

    def look(self, line: Cells, cells: Cells) -> tuple[Style, bool]:
        """The style of a line among all cells, and whether its markers are open."""
        style = self.style or style_of(self.colour, line[0], cells)
        if self.tint is not None:
            style = replace(style, colour=self.tint)
        values = cells.where(is_compressed=True).values(self.variant) if self.variant else []
        is_open = bool(values) and line[0][self.variant] in values[1:]
        if self.joined is not None:
            style = replace(style, line=self.joined)
        elif style.line:
            is_bound = any(cell.condition.is_bound for cell in line)
            style = replace(style, line=":" if is_open else "--" if is_bound else style.line)
        return style, is_open


def style_of(trait: str, cell: Cell, cells: Cells) -> Style:
    """How the value of a trait looks in every figure."""
    if trait in ("compressor", "alike_by"):
        return figure_style.style_of_compressor(cell[trait])
    if trait != "system":
        number = cells.where(is_compressed=True).values(trait).index(cell[trait])
        return Style(COLOURS[number], MARKERS[number])
    if cell.condition.baseline:
        return figure_style.style_of_baseline(cell.condition)
    chosen = [c.condition for c in cells if not c.condition.baseline]
    styles = figure_style.selector_styles({c.chosen_by: c.role for c in chosen})
    return styles[cell.condition.chosen_by]


@dataclass(frozen=True)
class Panels(PanelGroup):
    """A row of panels, one for each value of a trait, with the same lines.

    Attributes:
        x, y: what stands along the axes; at most one of them has categories.
        lines: from left to right, where they would hide each other.
        over: the trait, or what a cell's panel is called; None: one panel of all cells.
        where: traits of the cells that are shown.
        title: with traits of a panel's cells in braces; None: the value of `over`.
        reported: what others reported.
        stacked: one panel a row.
    """

    x: Axis
    lines: tuple[Lines, ...]
    y: Axis = ACCURACY
    over: str | Callable[[Cell], str] | None = "compressor"
    where: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    reported: tuple[Reported, ...] = ()
    stacked: bool = False

    @override
    def rows(self, cells: Cells) -> list[list[Panel]]:
        shown = cells.where(**self.where)
        if self.over is None:
            return [[self._panel(shown, cells, self.title or "", first=True)]]
        name = self.over if callable(self.over) else lambda cell: cell[self.over]
        row: list[Panel] = []
        for value in sorted({name(cell) for cell in shown.where(is_compressed=True)}):
            panel = Cells(cell for cell in shown if name(cell) == value)
            first = panel.where(is_compressed=True)[0]
            title = value if self.title is None else self.title.format_map(first)
            row.append(self._panel(panel, cells, title, first=self.stacked or not row))
        return [[panel] for panel in row] if self.stacked else [row]

    def _shown_anywhere(self, cells: Cells) -> Cells:
        groups = (
            line for some in self.lines if not some.across for line in some.groups(cells, cells)
        )
        return Cells(dict.fromkeys(cell for line in groups for cell in line))

    def _panel(self, panel: Cells, cells: Cells, title: str, first: bool) -> Panel:
        lines = [(some, line) for some in self.lines for line in some.groups(panel, cells)]
        across = [(some, line) for some, line in lines if some.across]
        lines = [(some, line) for some, line in lines if not some.across]

        def draw(axes: Axes) -> None:
            shown = Cells(dict.fromkeys(cell for _, line in lines for cell in line))
            # Beside each other panels say the words of the rows once, so all have the same rows.
            words = self.x.words(shown) or self.y.words(self._shown_anywhere(cells))
            words += [word for reported in self.reported for word in reported.categories]
            keys = [self._places(line, words) for _, line in lines]
            for number, (some, line) in enumerate(lines):
                above = 0 if words else keys[number + 1 :].count(keys[number])
                self._draw(axes, some, line, cells, words, (number, len(lines)), above)
            for some, line in across:
                style, _ = some.look(line, cells)
                measure, draw_line = (
                    (self.x, axes.axvline) if self.y.categories else (self.y, axes.axhline)
                )
                look = {"color": style.colour, "ls": style.line or ":", "lw": 0.9}
                draw_line(measure.value(line[0]), label=some.said(line[0]), **look)
            self._guessing(axes, shown)
            others = [x for reported in self.reported for x in draw_reported(axes, reported, words)]
            self.x.set_up(axes.xaxis, words, [*self.x.places(shown, words), *others])
            self.y.set_up(axes.yaxis, words, self.y.places(shown, words))
            if self.y.categories:
                axes.invert_yaxis()
            if not first and (self.y.limits or self.y.categories):
                axes.tick_params(labelleft=False)
                axes.set_ylabel("")
            axes.set_title(title)

        return Panel(draw, self.x)

    def _guessing(self, axes: Axes, cells: Cells) -> None:
        """A line across at the accuracy of guessing, where accuracy is shown and that is known."""
        across = {self.x.label: axes.axvline, self.y.label: axes.axhline}.get(ACCURACY.label)
        known = {round(100 * c.point.chance, 1) for c in cells if not math.isnan(c.point.chance)}
        for share in sorted(known if across else ()):
            across(share, label=f"guessing: {share:g} %", color=SOFT, ls=CHANCE, lw=0.9, zorder=1)

    def _places(self, line: Cells, words: Sequence[str]) -> list[tuple[float, float]]:
        """Where its points stand, to find lines that are equal."""
        x, y = self.x.places(line, words), self.y.places(line, words)
        return sorted(zip(x.tolist(), y.tolist(), strict=True))

    def _draw(
        self,
        axes: Axes,
        lines: Lines,
        line: Cells,
        cells: Cells,
        words: Sequence[str],
        number: tuple[int, int],
        above: int,
    ) -> None:
        """One line, a little aside of others: the first of two, the second of two, ...

        The wider the more equal lines will hide it (`above`), so that each is seen.
        """
        line = Cells(sorted(line, key=lambda cell: self.x.places([cell], words)[0]))
        style, is_open = lines.look(line, cells)
        x, y = self.x.places(line, words), self.y.places(line, words)
        bars = {"xerr": self.x.bars(line, x), "yerr": self.y.bars(line, y)}
        if len(line) > 1 or words:
            x, y = self.x.aside(x, *number), self.y.aside(y, *number)
        look = {"color": style.colour, "marker": style.marker, "ls": "" if words else style.line}
        look |= {"mfc": "white" if is_open else style.colour, "ms": 5 + 3 * above}
        look["lw"] = 1.4 + 2.2 * above
        axes.errorbar(x, y, **bars, **look, elinewidth=0.8, capsize=2, label=lines.said(line[0]))
        for cell, *place in zip(line, x, y, strict=True) if lines.remark else ():
            text = {"textcoords": "offset points", "fontsize": 6.5, "color": style.colour}
            axes.annotate(lines.remark.format_map(cell), place, (4, 3), gid=REMARK, **text)


def draw_reported(axes: Axes, reported: Reported, words: Sequence[str]) -> Sequence[float]:
    """What others reported: grey, hollow, dotted; never to be taken for a result of ours. Returns where it stands."""
    x, y = zip(*reported.entry["points"], strict=True)
    if reported.categories:
        x, y = y, [words.index(word) for word in reported.categories]
    look = {"color": OTHERS, "marker": reported.marker, "mfc": "white", "mec": OTHERS, "ms": 5}
    joined = "" if reported.categories else ":"
    axes.plot(x, y, ls=joined, lw=1.1, label=reported.entry["label"], **look)
    return x
