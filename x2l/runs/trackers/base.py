"""Where metrics are shown, beside the records that are the source of truth. Knows no tracker by name.

A tracker takes what a run says while it goes on (`run_metrics.py`), or what all runs of a sweep come to
(`SweepTables`). The files in conf/tracker/ name the classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from typing_extensions import override

MARKER = "curve.json"


class Tracker(Protocol):
    """One run: a context manager that takes metrics while it lasts, or the run of a whole sweep, which is not entered.

    Made with `folder`, `run_id`, `name`, `group`, `config` and the settings of its own in conf/tracker/. Raises a
    ValueError there, before anything takes time, where it cannot work.
    """

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

    def show_answers(self, answers: AnswerTable) -> None:
        """Shows every answer of the run, and the accuracies of its cells side by side."""
        ...

    def track_sweep(self, tables: SweepTables, picture: Path, files: Sequence[Path]) -> bool:
        """Shows a sweep; again only where something has changed, in place of the old.

        Args:
            tables: of the sweep.
            picture: curve.png.
            files: to be kept beside it, e.g. points.csv.

        Returns:
            Whether anything was written.
        """
        ...

    def how_to_see(self, folders: Sequence[Path]) -> list[str]:
        """Lines for the user: where the sweep's run lies, and how to look at all runs under some folders."""
        ...


class NoTracker(Tracker):
    """Tracks nothing. Takes what the others take."""

    def __init__(self, **_: Any) -> None:
        """Ignores its arguments."""

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def track_sweep(self, tables: SweepTables, picture: Path, files: Sequence[Path]) -> bool:
        return False

    @override
    def how_to_see(self, folders: Sequence[Path]) -> list[str]:
        return []


@dataclass(frozen=True)
class AnswerTable:
    """The answers of one run.

    Attributes:
        columns: of `rows`.
        rows: one an answer, all of them words.
        accuracies: cell, accuracy in percent.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    accuracies: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Chart:
    """Accuracy over one kind of compute: the lines of a sweep, and its Pareto front.

    Attributes:
        name: of the kind of compute, e.g. `kv_bytes`.
        title: for people.
        x: name of the column of compute, with its unit.
        lines: rows (line, compute, accuracy in percent), every line's from left to right; of full KVs two points, as
            trackers draw no line through one.
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


def sweep_run(folder: Path) -> dict[str, Any]:
    """What a tracker is made with for the run of a whole sweep.

    Args:
        folder: of the sweep's results; its name is the group.
    """
    sweep = folder.resolve().name
    return {
        "folder": folder,
        "run_id": f"curve-{place_id(folder)}",
        "name": f"curve of {sweep}",
        "group": sweep,
        "config": {},
    }


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
    if (
        marker.exists()
        and json.loads(marker.read_text(encoding="utf-8"))["digest"] == digest.hexdigest()[:16]
    ):
        return False
    write()
    home.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"digest": digest.hexdigest()[:16]}) + "\n", encoding="utf-8")
    return True
