"""One row of an annotation file, whose fields are what they must be or a `DatasetError` that names file, row and field.

A question that is null would be asked as "None", a list that is one string would be taken for its letters, a NaN
would be no span: nothing of a file is used before its type is known.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from x2l.benchmarks.base import DatasetError

T = TypeVar("T")


class Row(dict[str, Any]):
    """The fields by name; final. `row[name]` is a field's raw value, the methods are checked ones."""

    def __init__(
        self, values: Mapping[str, Any], path: Path, number: int, line: int | None = None
    ) -> None:
        """Keeps where the row is from: `number` counts from 0; the `line` of a text file, where it is one, from 1."""
        super().__init__(values)
        self.path, self.number, self.line = path, number, line

    @property
    def place(self) -> str:
        """Where in the file, for errors."""
        return f"row {self.number}" if self.line is None else f"line {self.line}"

    def error(self, what: str) -> DatasetError:
        """An error about this row."""
        return DatasetError(f"{self.path}: {self.place}: {what}")

    def __missing__(self, field: str) -> Any:
        """Says which field of which row is missing."""
        raise DatasetError(
            f"{self.path}: {self.place} has no field {field!r} (it has {', '.join(self)}); "
            "fetch the file again, or tell x2l of its new layout"
        )

    def read(self, field: str, reader: Callable[[Any], T]) -> T:
        """What a reader makes of a field.

        Args:
            field: its name.
            reader: raises a ValueError that says what the value must be.

        Raises:
            DatasetError: no such field, or the reader's.
        """
        value = self[field]
        try:
            return reader(value)
        except ValueError as error:
            told = ascii(value)
            told = told if len(told) <= 60 else f"{told[:60]}..."
            raise DatasetError(
                f"{self.path}: {self.place}: {field}={told}: must be {error}; fetch the file again, or correct "
                "the row"
            ) from error

    def text(self, field: str) -> str:
        """Words."""
        return self.read(field, text)

    def label(self, field: str) -> str:
        """Words, or a number as words: ids, options of counting."""
        return self.read(field, label)

    def labels(self, field: str) -> tuple[str, ...]:
        """One or more of those, in a list."""

        def reader(value: Any) -> tuple[str, ...]:
            if not _list(value):
                raise ValueError("a list that is not empty")
            return tuple(map(label, value))

        return self.read(field, reader)

    def number_of(self, field: str) -> float:
        """A finite number of at least 0."""
        return self.read(field, number)

    def spans(self, field: str) -> tuple[tuple[float, float], ...]:
        """A list of `[start, end]` in seconds."""
        return self.read(field, lambda value: tuple(map(span, _list(value))))

    def option(self, field: str, count: int) -> int:
        """The number of one of `count` options, from 0."""

        def reader(value: Any) -> int:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
                raise ValueError(f"the number of one of the {count} options, from 0")
            return value

        return self.read(field, reader)

    def inner(self, field: str) -> "Row":
        """An object, as a row of the same number."""

        def reader(value: Any) -> Row:
            if not isinstance(value, dict):
                raise ValueError("an object")
            return Row(value, self.path, self.number, self.line)

        return self.read(field, reader)

    def rows(self, field: str) -> list["Row"]:
        """A list of objects, as rows of the same number."""

        def reader(value: Any) -> list[Row]:
            if not all(isinstance(item, dict) for item in _list(value)):
                raise ValueError("a list of objects")
            return [Row(item, self.path, self.number, self.line) for item in value]

        return self.read(field, reader)


def text(value: Any) -> str:
    """Words.

    Raises:
        ValueError: no text, an empty one, or one that is no Unicode (a half of a pair of surrogates).
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError("text")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("text without NUL and lone surrogates")
    return value


def label(value: Any) -> str:
    """Words, or a finite number as words.

    Raises:
        ValueError: neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    try:
        return text(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a number") from error


def number(value: Any) -> float:
    """A finite number of at least 0.

    Raises:
        ValueError: another value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("a finite number of at least 0")
    return float(value)


def span(value: Any) -> tuple[float, float]:
    """`[start, end]` in seconds.

    Raises:
        ValueError: another value.
    """
    start, end = (number(second) for second in _list(value)) if _pair(value) else (1.0, 0.0)
    if end < start:
        raise ValueError("[start, end] in seconds, start first")
    return start, end


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list")
    return value
