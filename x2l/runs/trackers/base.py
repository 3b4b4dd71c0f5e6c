"""Where metrics are shown, beside the records that are the source of truth. Knows no tracker by name.

A tracker takes what a run tells (`metrics.py`), and a sweep what all its runs come to
(`SweepTables`). `tracking_wandb.py` and `tracking_tensorboard.py` are two of them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

MARKER = "curve.json"


class Tracker(Protocol):
    """A context manager that takes metrics while a run lasts."""

    def __enter__(self) -> Self:
        """Starts."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends, whatever happened."""
        ...

    def log(self, metrics: Mapping[str, float]) -> None:
        """Adds one row of metrics; `answers` is how far the run is."""
        ...

    def summarize(self, values: Mapping[str, float]) -> None:
        """Sets the run's final values."""
        ...


class NoTracker:
    """Tracks nothing. Takes what the others take."""

    def __init__(self, **_: Any) -> None:
        """Ignores its arguments."""

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Does nothing."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def summarize(self, values: Mapping[str, float]) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Chart:
    """Accuracy over one kind of compute: the lines of a sweep, and its Pareto front.

    Attributes:
        name: of the kind of compute, e.g. `kv_bytes`.
        title: for people.
        x: name of the column of compute, with its unit.
        lines: rows (line, compute, accuracy in percent), every line's from left to right.
        front: rows (cell, compute, accuracy in percent), cheapest first.
        steps: bytes, FLOPs or microseconds in one unit of `x`, for trackers that draw over whole numbers.
    """

    name: str
    title: str
    x: str
    lines: tuple[tuple[str, float, float], ...]
    front: tuple[tuple[str, float, float], ...]
    steps: float


@dataclass(frozen=True)
class SweepTables:
    """What a sweep's own run shows.

    Attributes:
        title: what the points are of.
        config: what all cells share.
        columns: of `rows`.
        rows: one a cell.
        task_columns: of `task_rows`.
        task_rows: one a cell and task.
        charts: one a kind of compute.
    """

    title: str
    config: Mapping[str, str | float | None]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    task_columns: tuple[str, ...]
    task_rows: tuple[tuple[Any, ...], ...]
    charts: tuple[Chart, ...]


def place_id(folder: Path) -> str:
    """Eight hex digits that tell folders of equal name apart: W&B merges runs of one id.

    Of the last three names of the path, so that moving all outputs changes no id.
    """
    place = "/".join(folder.resolve().parts[-3:])
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def written_anew(
    home: Path, tables: SweepTables, files: Sequence[Path], more: object, write: Callable[[], None]
) -> bool:
    """Calls `write`, unless it was called for the same content before.

    Args:
        home: of the tracker's files; keeps the digest of what was written last.
        tables: the content.
        files: whose bytes are content as well.
        more: settings that change what is written; plain values.
        write: makes the sweep's run, in place of an older one.

    Returns:
        Whether it was called.
    """
    digest = hashlib.sha256(json.dumps([asdict(tables), more], default=str).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    marker = home / MARKER
    if marker.exists() and json.loads(marker.read_text())["digest"] == digest.hexdigest()[:16]:
        return False
    write()
    home.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"digest": digest.hexdigest()[:16]}) + "\n")
    return True
