"""Where metrics are shown, beside the records that are the source of truth: W&B, or nowhere.

The only module that imports wandb, and only when a run starts. Offline by default: W&B keeps rows
in memory for a while, so a hard kill loses some; records.jsonl does not.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
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
        """Adds one row of metrics."""
        ...

    def summarize(self, values: Mapping[str, float]) -> None:
        """Sets the run's final values."""
        ...


class NoTracker:
    """Tracks nothing. Takes what `WandbTracker` takes."""

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


class WandbTracker:
    """One W&B run, silent, everything it writes under `folder`."""

    def __init__(
        self,
        folder: str | Path,
        run_id: str,
        name: str,
        group: str,
        config: Mapping[str, Any],
        project: str = "x2l",
        mode: str = "offline",
        job_type: str = "run",
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: gets `wandb/`; made if missing.
            run_id: W&B merges runs of one id when they are synchronised.
            name: shown name.
            group: runs of one sweep share it.
            config: shown configuration.
            project: W&B project.
            mode: `offline`, or `online` with a key in the environment.
            job_type: `run`, or `curve` for the sweep's own run.

        Raises:
            ValueError: another mode.
        """
        if mode not in ("offline", "online"):
            raise ValueError(
                f"tracker.mode={mode!r}: must be offline or online; tracker=none turns it off"
            )
        self.folder = Path(folder)
        self._options: dict[str, Any] = {
            "id": run_id,
            "name": name,
            "group": group,
            "config": dict(config),
            "project": project,
            "mode": mode,
            "job_type": job_type,
        }
        self._run: Any = None

    def __enter__(self) -> Self:
        """Starts the run."""
        # W&B warns about a missing folder even when silent, and writes to the home folder unless
        # told where its caches go; what the user has set stays.
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("CACHE", "DATA", "CONFIG"):
            place = self.folder / "wandb" / ".state" / name.lower()
            os.environ.setdefault(f"WANDB_{name}_DIR", str(place.absolute()))
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        self._run = wandb.init(
            dir=str(self.folder), resume="allow", settings=settings, **self._options
        )
        self._run.define_metric("answers")
        self._run.define_metric("accuracy/*", step_metric="answers")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the run, marked as failed where it did."""
        self._run.finish(exit_code=0 if kind is None else 1)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Adds one row of metrics; never with an explicit step, which W&B drops when it falls."""
        self._run.log(dict(metrics))

    def summarize(self, values: Mapping[str, float]) -> None:
        """Sets the run's final values."""
        self._run.summary.update(dict(values))

    def log_curve(
        self, columns: Sequence[str], rows: Sequence[Sequence[Any]], picture: Path, title: str
    ) -> None:
        """Logs the sweep: its points as a table, the line chart made from it, and the picture.

        Args:
            columns: names; `kv_percent`, `accuracy_percent` and `line` make the chart.
            rows: one a point.
            picture: curve.png.
            title: of the chart.
        """
        import wandb

        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        chart = wandb.plot.line(table, "kv_percent", "accuracy_percent", stroke="line", title=title)
        image = wandb.Image(str(picture))
        self._run.log({"points": table, "accuracy_versus_compute": chart, "curve": image})


def place_id(folder: Path) -> str:
    """Eight hex digits that tell folders of equal name apart: W&B merges runs of one id.

    Of the last three names of the path, so that moving all outputs changes no id.
    """
    place = "/".join(folder.resolve().parts[-3:])
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def track_curve(
    folder: Path,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    picture: Path,
    mode: str = "offline",
    project: str = "x2l",
) -> bool:
    """Writes the sweep's W&B run; again only when the points have changed, in place of the old.

    Args:
        folder: the sweep's folder; its name is the group.
        title: of the chart.
        columns: see `WandbTracker.log_curve`.
        rows: one a point.
        picture: curve.png.
        mode: offline or online.
        project: W&B project.

    Returns:
        Whether a run was written.
    """
    text = json.dumps([title, mode, project, list(columns), [list(row) for row in rows]])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    home = folder / "wandb"
    marker = home / MARKER
    run_id = f"curve-{place_id(folder)}"
    if marker.exists() and json.loads(marker.read_text())["digest"] == digest:
        return False
    for old in home.glob(f"*run-*-{run_id}"):  # only directories of this very run
        shutil.rmtree(old)
    tracker = WandbTracker(
        folder,
        run_id=run_id,
        name=f"curve of {folder.name}",
        group=folder.name,
        config={"sweep": folder.name, "points": len(rows)},
        project=project,
        mode=mode,
        job_type="curve",
    )
    with tracker:
        tracker.log_curve(columns, rows, picture, title)
    marker.write_text(json.dumps({"digest": digest, "run_id": run_id}) + "\n")
    return True
