"""Numbers that others reported, each with its source: `sourced.json`. None is from the paper's tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("sourced.json")


@dataclass(frozen=True)
class Sourced:
    """One series.

    Attributes:
        name: in the file.
        label: model, benchmark and kind of source, as figures show it.
        source: repository, commit, file and place.
        x, y: what the numbers are.
        points: (x, y) pairs.
        note: what must be known to read them.
    """

    name: str
    label: str
    source: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]
    note: str

    @property
    def told(self) -> str:
        """The series as a note under a figure."""
        pairs = ", ".join(f"{x:g}: {y:g}" for x, y in self.points)
        return f"Grey, hollow: {self.label} ({self.y} by {self.x}: {pairs}). {self.note} Source: {self.source}."


def sourced(name: str) -> Sourced:
    """One series of the file, by name."""
    entry = json.loads(FILE.read_text())[name]
    return Sourced(name=name, **{**entry, "points": tuple(map(tuple, entry["points"]))})
