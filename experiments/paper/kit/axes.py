"""What stands along the axes of panels: a measure or a setting of a cell, its interval, its scale and its ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as DrawnAxis
from matplotlib.ticker import NullLocator

from experiments.paper.kit.cells import Cell, Cells
from x2l.analysis.plotting import log_ticks
from x2l.analysis.statistics import Outcome, accuracy

Interval = tuple[float, float]
MARGIN = 0.05  # of an axis, on both sides of what stands along it


@dataclass(frozen=True)
class Axis:
    """One axis of a panel.

    Attributes:
        label: beside it.
        value: of a cell: a number, or a word on an axis of categories.
        interval: lower and upper end; None: no bars.
        scale: of numbers.
        limits: of the axis, where they do not follow from the data; an upper one of None does.
        ticks: where to put them; True: at the values there are; empty: as the scale has it.
        categories: the words, in their order, or how to find them; those that no cell has are left out.
        none: where what takes nothing of it stands, on a scale of logarithms.
        apart: how far lines over one value stand apart: a share of it where the scale is a logarithm, else in units.
    """

    label: str
    value: Callable[[Cell], float | str]
    interval: Callable[[Cell], Interval] | None = None
    scale: Literal["linear", "log"] = "linear"
    limits: tuple[float, float | None] | None = None
    ticks: bool | Sequence[float] = ()
    categories: Sequence[str] | Callable[[Cells], Sequence[str]] = ()
    none: float | None = None
    apart: float = 0.0

    def words(self, cells: Cells) -> list[str]:
        """The categories that some cells have, in order."""
        if not self.categories:
            return []
        ordered = self.categories(cells) if callable(self.categories) else self.categories
        present = {self.value(cell) for cell in cells}
        return [word for word in ordered if word in present]

    def places(self, cells: Sequence[Cell], words: Sequence[str]) -> np.ndarray:
        """Where cells stand; `words` are the categories of this axis or of the other."""
        values = [self.value(cell) for cell in cells]
        return np.array([words.index(v) if self.categories else v for v in values], dtype=float)

    def aside(self, places: np.ndarray, line: int, lines: int) -> np.ndarray:
        """The same for one of several lines, so that intervals over one value can be told apart."""
        step = line - (lines - 1) / 2
        if self.scale == "linear":
            return places + self.apart * step
        return places * (1 + self.apart) ** step

    def bars(self, cells: Cells, places: np.ndarray) -> np.ndarray | None:
        """Distances to the ends of the intervals, as matplotlib's errorbar takes them: (2, cells)."""
        if self.interval is None:
            return None
        low, high = np.array([self.interval(cell) for cell in cells]).T
        return np.maximum(0.0, [places - low, high - places])

    def set_up(self, drawn: DrawnAxis, words: Sequence[str], values: Sequence[float]) -> None:
        """Scale, limits, ticks and label; after the data are drawn.

        Args:
            drawn: matplotlib's.
            words: the categories of this axis or of the other.
            values: where something stands.
        """
        set_limits = drawn.axes.set_xlim if drawn.axis_name == "x" else drawn.axes.set_ylim
        if self.categories:
            drawn.set_ticks(range(len(words)), words)
            set_limits(-0.5, len(words) - 0.5)
        elif self.scale == "log":
            drawn._set_axes_scale("log")
            self._put_ticks(drawn, log_ticks(*drawn.get_view_interval()))
        if self.ticks:
            self._put_ticks(drawn, sorted(set(values)) if self.ticks is True else self.ticks)
        drawn.set_minor_locator(NullLocator())
        if self.limits:
            low, high = self.limits
            set_limits(low, 1.1 * max(values) if high is None else high)
        drawn.set_label_text(self.label)

    def share(self, panels: Sequence[Axes]) -> None:
        """Gives panels whose lower axis this is one range, with room for all of them; after they are drawn."""
        ends = [end for axes in panels for end in axes.dataLim.intervalx if math.isfinite(end)]
        if self.categories or self.limits or len(set(ends)) < 2:
            return
        low, high = min(ends), max(ends)
        if self.scale == "log":
            margin = (high / low) ** MARGIN
            low, high = low / margin, high * margin
        else:
            low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
        ticks = sorted({tick for axes in panels for tick in axes.get_xticks()})
        for axes in panels:
            axes.set_xlim(low, high)
            if self.ticks:
                self._put_ticks(axes.xaxis, ticks)
            elif self.scale == "log":
                self._put_ticks(axes.xaxis, log_ticks(low, high))

    def _put_ticks(self, drawn: DrawnAxis, ticks: Sequence[float]) -> None:
        words = ["none" if tick == self.none else f"{tick:g}" for tick in ticks]
        drawn.set_ticks(ticks, words)


def of_accuracy(cell: Cell) -> float:
    """Accuracy, %."""
    return 100 * cell.point.accuracy


def interval_of_accuracy(cell: Cell) -> Interval:
    """95 %, clustered by video."""
    return 100 * cell.point.accuracy_low, 100 * cell.point.accuracy_high


ACCURACY = Axis("accuracy (%)", of_accuracy, interval_of_accuracy, limits=(0, 104))
KV_BYTES = Axis(
    "KV bytes stored (% of full)", lambda c: 100 * c.point.kv_share, scale="log", apart=0.02
)
ALL_BYTES = Axis(
    "KV bytes and selector's (% of full)", lambda c: 100 * c["bytes"], scale="log", apart=0.002
)
NEXT_FLOPS = Axis("one more question (MFLOPs)", lambda c: 1e-6 * c.point.flops_next)


def of_recall(cell: Cell) -> float:
    """Share of the chunks that hold the answer that was re-loaded, %."""
    return 100 * cell.point.recall


def interval_of_recall(cell: Cell) -> Interval:
    """95 %, clustered by video; of the questions of which it is known where the answer lies."""
    known = [r for r in cell.records if r.selection.recall is not None]
    outcomes = [Outcome(r.question.sample_id, r.video.video_id, r.selection.recall) for r in known]
    found = accuracy(outcomes)
    return 100 * found.low, 100 * found.high


NOTHING = 1e-3  # stands so far to the left
CHOOSING_FLOPS = Axis(
    "choosing for one question (MFLOPs)",
    lambda cell: max(NOTHING, 1e-6 * cell.point.flops["selection"]),
    scale="log",
    none=NOTHING,
)
CHOOSING_BYTES = Axis(
    "streamed and kept for choosing (% of KV bytes)",
    lambda cell: max(NOTHING, 100 * cell["choosing_bytes"]),
    scale="log",
    none=NOTHING,
)
RECALL = Axis("recall of true chunks (%)", of_recall, interval_of_recall, limits=(-4, 104))


def over_trait(label: str, trait: str, categories: Sequence[str] = (), **more: object) -> Axis:
    """An axis of a trait of cells."""
    return Axis(label, lambda cell: cell[trait], categories=categories, **more)
