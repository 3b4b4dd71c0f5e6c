"""Panels of heat maps: accuracy by two properties of questions, a panel a system, a row a compressor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from typing_extensions import override

from experiments.paper.kit.cells import Cell, Cells
from experiments.paper.kit.spec import Panel, PanelGroup


@dataclass(frozen=True)
class Grid:
    """Accuracy of one cell by place.

    Attributes:
        accuracy: (rows, columns), %; NaN where there is no question.
        questions: (rows, columns).
        edges: of the rows, %; one more than there are.
        columns: upper ends.
    """

    accuracy: np.ndarray
    questions: np.ndarray
    edges: Sequence[int]
    columns: Sequence[float]


@dataclass(frozen=True)
class HeatMaps(PanelGroup):
    """Rows of heat maps.

    Attributes:
        systems: panels of a row, in order.
        grid: of a cell, among all of them.
        x, y: labels of the axes.
    """

    systems: tuple[str, ...]
    grid: Callable[[Cell, Cells], Grid]
    x: str
    y: str

    @override
    def rows(self, cells: Cells) -> list[list[Panel]]:
        return [
            [self._panel(cell, cells, first=cell is row[0], last=cell is row[-1]) for cell in row]
            for name in cells.values("compressor")
            if (row := [c for s in self.systems for c in cells.where(compressor=name, system=s)])
        ]

    def _panel(self, cell: Cell, cells: Cells, first: bool, last: bool) -> Panel:
        def draw(axes: Axes) -> None:
            grid = self.grid(cell, cells)
            image = axes.imshow(grid.accuracy, cmap="cividis", vmin=0, vmax=100, aspect="auto")
            if last:
                bar = axes.figure.colorbar(image, ax=axes)
                bar.set_label("accuracy (%)", fontsize=8)
                bar.ax.tick_params(labelsize=7)
            for (row, column), share in np.ndenumerate(grid.accuracy):
                if grid.questions[row, column]:
                    colour = "white" if share < 55 else "black"
                    style = {"ha": "center", "va": "center", "color": colour}
                    count = grid.questions[row, column]
                    axes.text(column, row, f"{share:.0f}\nn={count}", fontsize=6, **style)
            axes.grid(False)
            axes.set_xticks(range(len(grid.columns)), [f"{end:g}" for end in grid.columns])
            axes.set_yticks(np.arange(len(grid.edges)) - 0.5, grid.edges if first else [])
            axes.tick_params(labelsize=7)
            axes.set_xlabel(self.x, fontsize=8)
            axes.set_ylabel(self.y if first else "")
            system = cell["label"].removesuffix(" (bound)")
            axes.set_title(f"{cell['compressor']}, {system}", fontsize=8)

        return Panel(draw)
