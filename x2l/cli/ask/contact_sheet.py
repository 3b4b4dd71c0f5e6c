"""One answer as a picture: every chunk's thumbnail and relevance, the re-loaded ones marked, question and answer.

Chunks run in rows from left to right. Where there are more than fit, neighbours share a thumbnail, and each still has
its own bar. A re-loaded chunk is told by a frame, a dark bar and a triangle: not by colour alone.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.patches import Polygon, Rectangle

from x2l.analysis.figure_style import INK, RC, SOFT, style_of_level
from x2l.cli.ask.clock import clock, is_fine
from x2l.runs.whole_file import whole_file

# Inches.
WIDTH, MARGIN, GAP = 10.0, 0.25, 0.1
TALLEST = 1.9  # thumbnail
ROWS_HEIGHT = 5.6  # all rows, as far as thumbnails stay readable
LABEL, BAR, MARK = 0.18, 0.42, 0.14  # heights in a row: time, bars, triangles
ROOM_FOR_WORDS = 1.1  # width from which a label says that its chunk was re-loaded
HEAD, FOOT, LEADING = 10.5, 7.5, 1.45  # points, and lines' distance over their size
COLUMNS = range(4, 13)
MOST_THUMBNAILS = 48
LONGEST_WORD = 60  # characters; longer ones are broken
LINES = 9  # of a question or an answer; the rest is in the JSON beside the picture
CUT_OFF = " … (cut off)"
DPI = 120
# Scripts that no installed font has are shown as boxes; the JSON beside the picture has the words.
_NO_GLYPH = "Glyph .* missing from font"
_RELOADED, _OTHER = (style_of_level(index, 2).colour for index in range(2))
_TEXT, _FAINT = INK, SOFT
# Tried in this order for what matplotlib's own font lacks; only those that are installed are used.
_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Arial Unicode MS",
)


@dataclass(frozen=True)
class SheetChunk:
    """One chunk as it is shown.

    Attributes:
        seconds: (start, end) in the video.
        thumbnail: (height, width, 3), uint8; one shape for all chunks.
        relevance: to the question; None where it was not rated.
        reloaded: whether its L-KVs were re-loaded.
    """

    seconds: tuple[float, float]
    thumbnail: np.ndarray
    relevance: float | None
    reloaded: bool


@dataclass(frozen=True)
class _Grid:
    """Where thumbnails stand: `group` chunks share one; `columns` of them in a row; sizes in inches."""

    group: int
    columns: int
    rows: int
    pitch: float
    picture: tuple[float, float]

    @property
    def row(self) -> float:
        """Height of a row."""
        return LABEL + self.picture[1] + BAR + MARK + 2 * GAP

    @property
    def height(self) -> float:
        """Of all rows."""
        return self.rows * self.row


def draw_sheet(
    question: str,
    answer: str,
    chunks: Sequence[SheetChunk],
    levels: tuple[str, str],
    rated_by: str,
    facts: Sequence[str],
) -> Figure:
    """The contact sheet of one answer.

    Args:
        question: the user's words; lines are kept, long ones wrapped.
        answer: the model's.
        chunks: all of the video, in time order.
        levels: what re-loaded chunks and the others are kept at, e.g. `low 2x`, `high 32x`.
        rated_by: name of the selector.
        facts: lines for the foot.

    Raises:
        ValueError: there is no chunk.
    """
    if not chunks:
        raise ValueError("chunks=(): a contact sheet needs at least one chunk")
    grid = _grid(len(chunks), chunks[0].thumbnail.shape)
    installed = set(fontManager.get_font_names())
    family = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    with matplotlib.rc_context({**RC, "font.family": family}):
        head = [(line, "bold") for line in _wrapped(question, _measure(HEAD, "bold"))]
        head += [(line, "normal") for line in _wrapped(f"Answer: {answer}", _measure(HEAD))]
        foot = [line for fact in facts for line in _wrapped(fact, _measure(FOOT))]
        above = MARGIN + len(head) * LEADING * HEAD / 72 + 0.15
        below = MARGIN + 0.32 + len(foot) * LEADING * FOOT / 72
        height = above + grid.height + below
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height), frame_on=False)
        axes.set_axis_off()
        for number, (line, weight) in enumerate(head, start=1):
            at = height - MARGIN - (number - 0.3) * LEADING * HEAD / 72
            _write(axes, MARGIN, at, line, HEAD, weight=weight)
        for index in range(0, len(chunks), grid.group):
            row, column = divmod(index // grid.group, grid.columns)
            left, top = MARGIN + column * grid.pitch, height - above - row * grid.row
            _cell(axes, grid, chunks, index, left, top)
        _legend(axes, chunks, levels, rated_by, below - 0.16)
        for number, line in enumerate(foot, start=1):
            at = below - 0.24 - number * LEADING * FOOT / 72
            _write(axes, MARGIN, at, line, FOOT, color=_FAINT)
        axes.set(xlim=(0, WIDTH), ylim=(0, height))  # pictures widen or narrow them
    return figure


def save_sheet(figure: Figure, path: Path) -> None:
    """Writes a PNG file, whole or not at all."""
    with whole_file(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NO_GLYPH)
        figure.savefig(part, format="png", dpi=DPI)


def _grid(chunks: int, shape: Sequence[int]) -> _Grid:
    """The grid with the largest thumbnails that is not too tall."""
    group = math.ceil(chunks / MOST_THUMBNAILS)
    cells, grids = math.ceil(chunks / group), []
    for columns in COLUMNS:
        pitch = (WIDTH - 2 * MARGIN + GAP) / columns
        scale = min((pitch - GAP) / shape[1], TALLEST / shape[0])
        picture = (scale * shape[1], scale * shape[0])
        grids.append(_Grid(group, columns, math.ceil(cells / columns), pitch, picture))
    # Of equal sizes the first, with the fewest columns; if none fits, the least tall.
    if fitting := [grid for grid in grids if grid.height <= ROWS_HEIGHT]:
        return max(fitting, key=lambda grid: round(grid.picture[0], 9))
    return min(grids, key=lambda grid: grid.height)


def _cell(
    axes: Axes, grid: _Grid, chunks: Sequence[SheetChunk], first: int, left: float, top: float
) -> None:
    """One thumbnail with the bars of its chunks below it."""
    members = range(first, min(first + grid.group, len(chunks)))
    shown = _shown(chunks, members)
    chunk, fine = chunks[shown], is_fine([c.seconds for c in chunks])
    width, height = grid.picture
    bottom = top - LABEL - height
    time, weight = clock(chunk.seconds[0], fine), "bold" if chunk.reloaded else "normal"
    words = f"{time} re-loaded" if chunk.reloaded and grid.pitch > ROOM_FOR_WORDS else time
    colour = _RELOADED if chunk.reloaded else _TEXT
    label = {"weight": weight, "color": colour, "gid": f"time-{shown}"}
    _write(axes, left, top - LABEL + 0.05, words, FOOT, **label)
    axes.imshow(
        chunk.thumbnail,
        extent=(left, left + width, bottom, bottom + height),
        interpolation="bilinear",
        aspect="auto",
        gid=f"thumbnail-{shown}",
    )
    if chunk.reloaded:
        frame = Rectangle((left, bottom), width, height, fill=False, lw=3, ec=_RELOADED)
        frame.set_gid(f"frame-{shown}")
        axes.add_patch(frame)
    ratings = [c.relevance for c in chunks if c.relevance is not None]
    low, high = min([0.0, *ratings]), max([0.0, *ratings])
    step = width / grid.group
    base = bottom - GAP - BAR
    axes.plot([left, left + width], [base, base], color=_OTHER, lw=0.6)
    for place, index in enumerate(members):
        member, middle = chunks[index], left + (place + 0.5) * step
        if member.relevance is not None and high > low:
            thick, tall = min(0.75 * step, 0.3), BAR * (member.relevance - low) / (high - low)
            colour = _RELOADED if member.reloaded else _OTHER
            bar = Rectangle((middle - thick / 2, base), thick, tall, fc=colour, ec="none")
            bar.set_gid(f"bar-{index}")
            axes.add_patch(bar)
        if member.reloaded:
            _triangle(axes, middle, base - 0.03, f"mark-{index}")


def _shown(chunks: Sequence[SheetChunk], members: range) -> int:
    """Which of some chunks the thumbnail shows: the most relevant re-loaded one, or the middle one."""
    reloaded = [index for index in members if chunks[index].reloaded]
    if not reloaded:
        return members[len(members) // 2]
    return max(reloaded, key=lambda index: (chunks[index].relevance or 0.0, -index))


def _triangle(axes: Axes, x: float, top: float, gid: str) -> None:
    corners = [(x, top), (x - 0.05, top - 0.09), (x + 0.05, top - 0.09)]
    axes.add_patch(Polygon(corners, closed=True, fc=_RELOADED, ec="none", gid=gid))


def _legend(
    axes: Axes, chunks: Sequence[SheetChunk], levels: tuple[str, str], rated_by: str, top: float
) -> None:
    """What frames, triangles and bars mean, in one line."""
    count = sum(chunk.reloaded for chunk in chunks)
    every = f"{len(chunks)} chunk{'' if len(chunks) == 1 else 's'}"
    words = f"re-loaded: {count} of {every}, {levels[0]} (others {levels[1]})"
    frame = Rectangle((MARGIN, top - 0.02), 0.16, 0.12, fill=False, lw=2, ec=_RELOADED)
    axes.add_patch(frame)
    _triangle(axes, MARGIN + 0.28, top + 0.09, "legend")
    _write(axes, MARGIN + 0.4, top, words, 8)
    if all(chunk.relevance is None for chunk in chunks):
        return
    highest = max(chunk.relevance for chunk in chunks if chunk.relevance is not None)
    shared = "" if len(chunks) <= MOST_THUMBNAILS else "; neighbours share a thumbnail"
    axes.add_patch(Rectangle((4.4, top - 0.02), 0.07, 0.12, fc=_OTHER, ec="none"))
    axes.add_patch(Rectangle((4.5, top - 0.02), 0.07, 0.07, fc=_OTHER, ec="none"))
    words = f"relevance of each chunk ({rated_by}), at most {highest:.3g}{shared}"
    _write(axes, 4.65, top, words, 8)


def _write(axes: Axes, x: float, y: float, text: str, size: float, **style: object) -> None:
    style = {"color": _TEXT, **style}
    axes.text(x, y, text, fontsize=size, parse_math=False, **style)  # type: ignore[arg-type]


def _measure(size: float, weight: str = "normal") -> Callable[[str], float]:
    """Inches that a text takes in the present font."""
    renderer = FigureCanvasAgg(Figure(dpi=100)).get_renderer()
    font = FontProperties(family=matplotlib.rcParams["font.family"], size=size, weight=weight)

    def width(text: str) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_NO_GLYPH)
            return float(renderer.get_text_width_height_descent(text, font, False)[0]) / 100

    return width


def _wrapped(text: str, measure: Callable[[str], float]) -> list[str]:
    """Lines that fit the sheet, at most LINES of them; the text's own line breaks are kept."""
    room, lines = WIDTH - 2 * MARGIN, list[str]()
    for paragraph in text.strip().splitlines() or [""]:
        line, taken = "", 0.0
        for word in _words(paragraph):
            width = measure(word)
            if line and taken + width > room:
                lines.append(line.rstrip())
                line, taken = "", 0.0
            line, taken = line + word, taken + width
        lines.append(line.rstrip())
    if len(lines) > LINES:
        last = lines[LINES - 1]
        while last and measure(last + CUT_OFF) > room:
            last = last[:-1]
        lines = [*lines[: LINES - 1], last.rstrip() + CUT_OFF]
    return lines


def _words(paragraph: str) -> list[str]:
    """Pieces that a line may end after: words with the space behind them, and wide characters (Chinese)."""
    pieces, word = [], ""
    for letter in paragraph.expandtabs(4):
        word += letter
        wide = unicodedata.east_asian_width(letter) in "WF"
        if letter == " " or wide or len(word) >= LONGEST_WORD:
            pieces.append(word)
            word = ""
    return [*pieces, word] if word else pieces
