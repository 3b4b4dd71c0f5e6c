"""What a report's tables are made of, before there is any HTML. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_ROWS = 60  # of a table that is shown open


@dataclass(frozen=True)
class Bar:
    """Parts of a whole, as shares of the longest bar of the table.

    Attributes:
        parts: (number of the colour, share of the full width in percent, words).
    """

    parts: tuple[tuple[int, float, str], ...]

    @property
    def words(self) -> str:
        """The parts as text, for those who do not see the bar."""
        return ", ".join(words for _, _, words in self.parts)


@dataclass(frozen=True)
class Interval:
    """A value with its interval, and where zero is, in percent of the picture's width."""

    low: float
    value: float
    high: float
    zero: float


@dataclass(frozen=True)
class Value:
    """One entry of a table.

    Attributes:
        text: as shown.
        sort: what a reader sorts by; None = the text.
        note: a second, smaller line.
        picture: shown in place of the text, which then stands for it where pictures are not seen.
    """

    text: str
    sort: float | None = None
    note: str = ""
    picture: Bar | Interval | None = None


@dataclass(frozen=True)
class Column:
    """One column; numbers stand on the right."""

    name: str
    numbers: bool = True
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        caption: what it shows.
        columns: of every row.
        rows: of as many values.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    @property
    def collapsed(self) -> bool:
        """Whether it is shown closed at first."""
        return len(self.rows) > MOST_ROWS


def words(text: object, note: str = "") -> Value:
    """A value that is text."""
    return Value(str(text), note=note)


def number(value: float, form: str = "{:.3g}", scale: float = 1.0, note: str = "") -> Value:
    """A value that is a number; a dash where there is none."""
    if not math.isfinite(value):
        return Value("–", sort=-math.inf, note=note)
    return Value(form.format(value * scale), sort=value * scale, note=note)


def percent(share: float, low: float | None = None, high: float | None = None) -> Value:
    """A share as a percentage, its interval as the second line."""
    note = "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
    return number(share, "{:.1f}", 100.0, note)


def largest(values: Sequence[float]) -> float:
    """The largest of what is known; 0 where nothing is."""
    return max((value for value in values if math.isfinite(value)), default=0.0)
