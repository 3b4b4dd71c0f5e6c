"""Tracker W&B: one run for each run of x2l, grouped by sweep, and one for the sweep itself.

The only module that imports wandb, and only when a run starts. Offline by default: W&B keeps rows
in memory for a while, so a hard kill loses some; records.jsonl does not.
"""

import netrc
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from x2l import UserError
from x2l.runs.pasted import word
from x2l.runs.trackers.base import AnswerTable, SweepTables, Tracker, written_anew

HOME, STATE = "wandb", ".state"
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
MODES = ("offline", "online", "disabled")
_OLD_MODES = {"dryrun": "offline", "run": "online"}  # W&B's former words
SHORTEST_KEY = 40  # letters, behind a prefix that ends with a hyphen


class WandbTracker(Tracker):
    """One W&B run, silent, everything it writes under `folder`, or under WANDB_DIR where that is set.

    But for the log and cache of W&B's own service, of which a process has one for all its runs: they lie with the
    first.
    """

    def __init__(
        self,
        folder: str | Path,
        run_id: str,
        name: str,
        group: str,
        config: Mapping[str, Any],
        project: str = "x2l",
        mode: str | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: gets `wandb/`; made if missing.
            run_id: W&B merges runs of one id when they are synchronised.
            name: shown name.
            group: runs of one sweep share it.
            config: shown configuration.
            project: W&B project.
            mode: `offline`, `online` with a key, or `disabled`; None = what WANDB_MODE or WANDB_DISABLED say, else
                offline.

        Raises:
            ValueError: another mode, or online without a key.
        """
        mode = chosen_mode(mode)
        self.folder = Path(folder)
        self.place = Path(os.environ.get("WANDB_DIR") or folder)
        self._options: dict[str, Any] = {
            "id": run_id,
            "name": name,
            "group": group,
            "config": dict(config),
            "project": project,
            "mode": mode,
            "job_type": "run",
        }
        self._run: Any = None
        self._placed: list[str] = []

    def __enter__(self) -> Self:
        """Starts the run."""
        # W&B warns about a missing folder even when silent, and writes to the home folder unless
        # told where its caches go; what the user has set stays, what is set here ends with the run.
        self.place.mkdir(parents=True, exist_ok=True)
        folders = {f"WANDB_{name}_DIR": name.lower() for name in ("CACHE", "DATA", "CONFIG")}
        if not os.path.isabs(os.path.expanduser("~")):  # W&B asks for a home, needed or not
            folders["HOME"] = "home"
        for variable, name in folders.items():
            if variable not in os.environ:
                os.environ[variable] = str((self.place / HOME / STATE / name).absolute())
                self._placed.append(variable)
        try:
            self._run = self._started()
        except BaseException:
            self._unplace()
            raise
        return self

    def _started(self) -> Any:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        try:
            run = wandb.init(
                dir=str(self.place), resume="allow", settings=settings, **self._options
            )
        except wandb.Error as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"tracker.mode={self._options['mode']}: W&B refuses the run ({said}); set another key (`wandb login`), "
                "or stay offline and upload later"
            ) from error
        run.define_metric("answers")
        run.define_metric("accuracy/*", step_metric="answers")
        return run

    def _unplace(self) -> None:
        """The next run of this process has a folder of its own."""
        for variable in self._placed:
            os.environ.pop(variable, None)
        self._placed.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the run, marked as failed where it did."""
        try:
            self._run.finish(exit_code=0 if kind is None else 1)
        finally:
            self._unplace()

    def log(self, metrics: Mapping[str, float]) -> None:
        """Adds one row of metrics; never with an explicit step, which W&B drops when it falls."""
        self._run.log(dict(metrics))

    def summarize(self, values: Mapping[str, float]) -> None:
        """Sets the run's final values."""
        self._run.summary.update(dict(values))

    def show_answers(self, answers: AnswerTable) -> None:
        """A table that W&B filters and sorts, and one bar a cell."""
        import wandb

        accuracies = wandb.Table(
            columns=["cell", "accuracy_percent"], data=[list(row) for row in answers.accuracies]
        )
        title = "Accuracy of every cell (%)"
        self._run.log(
            {
                "answers_table": wandb.Table(
                    columns=list(answers.columns), data=[list(row) for row in answers.rows]
                ),
                "accuracy_by_cell": wandb.plot.bar(
                    accuracies, "cell", "accuracy_percent", title=title
                ),
            }
        )

    def track_sweep(self, tables: SweepTables, picture: Path, files: Sequence[Path]) -> bool:
        """Writes the sweep's run, with `files` as an artifact; see `Tracker`."""
        home, options = self.place / HOME, self._options
        if options["mode"] == "disabled":
            return False

        def write() -> None:
            for old in home.glob(f"*run-*-{options['id']}"):  # only directories of this very run
                shutil.rmtree(old)
            # Copies of the old run's files; runs of x2l itself have none.
            if (staged := home / STATE / "data" / "artifacts" / "staging").is_dir():
                shutil.rmtree(staged)
            about = {"sweep": options["group"], "points": len(tables.rows), **tables.config}
            options.update(config=about, job_type="curve")
            with self:
                self._log_sweep(tables, picture, files)

        more = [options["mode"], options["project"]]
        return written_anew(self.folder / HOME, tables, [picture, *files], more, write)

    def how_to_see(self, folders: Sequence[Path]) -> list[str]:
        """The run's folder, and the command that uploads what is offline."""
        if self._options["mode"] == "disabled":
            return []
        lines = [f"{self.place / HOME} (W&B, {self._options['mode']})"]
        if upload := upload_command([self.place, *folders]):
            lines.append(f"\nto upload every run to W&B: {upload}")
        return lines

    def _log_sweep(self, tables: SweepTables, picture: Path, files: Sequence[Path]) -> None:
        """Tables, a chart and the front for each kind of compute, the picture, files."""
        import wandb

        def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
            return wandb.Table(columns=list(columns), data=[list(row) for row in rows])

        logged: dict[str, Any] = {
            "points": table(tables.columns, tables.rows),
            "points_by_task": table(tables.task_columns, tables.task_rows),
            "curve": wandb.Image(str(picture)),
        }
        for chart in tables.charts:
            # The front is one more line of the chart, and a table of its own that names its cells.
            front = [("Pareto front", x, accuracy) for _, x, accuracy in chart.front]
            of_lines = table(("line", chart.x, "accuracy_percent"), [*chart.lines, *front])
            logged[f"accuracy_versus_{chart.name}"] = wandb.plot.line(
                of_lines, chart.x, "accuracy_percent", stroke="line", title=chart.title
            )
            logged[f"pareto_{chart.name}"] = table(
                ("cell", chart.x, "accuracy_percent"), chart.front
            )
        self._run.log(logged)
        # Of an artifact's name W&B takes few letters, of other names all.
        group = re.sub(r"[^A-Za-z0-9_.-]", "_", self._options["group"])[:100]
        artifact = wandb.Artifact(f"{group}-results", type="results")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)


def chosen_mode(mode: str | None) -> str:
    """What was configured, else what W&B's own variables say, else offline.

    Refuses what W&B would refuse later, after the model has been loaded.

    Raises:
        ValueError: none of `MODES`, or online without a key, or with one that cannot be.
    """
    field = "tracker.mode"
    if mode is None and os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        mode = "disabled"
    if mode is None and "WANDB_MODE" in os.environ:
        field, mode = "WANDB_MODE", os.environ["WANDB_MODE"]
        mode = _OLD_MODES.get(mode, mode)
    mode = mode or "offline"
    if mode not in MODES:
        raise ValueError(
            f"{field}={mode!r}: must be one of {', '.join(MODES)}; tracker=none turns it off"
        )
    if mode == "online" and not _has_key():
        raise ValueError(
            f"{field}='online': needs a key of W&B; set WANDB_API_KEY, or run `wandb login`, or "
            "stay offline and upload later"
        )
    key = os.environ.get("WANDB_API_KEY", "").strip()
    if mode == "online" and key and len(key.rpartition("-")[2]) < SHORTEST_KEY:
        raise ValueError(
            f"WANDB_API_KEY: must have {SHORTEST_KEY} letters or more, this one has {len(key.rpartition('-')[2])}; "
            "copy the whole key from W&B, or stay offline"
        )
    return mode


def _has_key() -> bool:
    """Whether W&B would find a key: in the environment, or where `wandb login` puts it."""
    if any(os.environ.get(name) for name in _KEYS):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (
        OSError,
        RuntimeError,
        netrc.NetrcParseError,
    ):  # none, no home, or none that W&B could read
        return False


def upload_command(folders: Sequence[Path]) -> str | None:
    """The one shell command that uploads every offline run under some folders; None where there is none."""
    patterns = set()
    for folder in folders:
        for run in folder.rglob(f"{HOME}/offline-run-*"):
            depth = len(run.relative_to(folder).parts) - 2
            patterns.add(
                "/".join([word(os.path.relpath(folder)), *["*"] * depth, HOME, "offline-run-*"])
            )
    return f"wandb sync {' '.join(sorted(patterns))}" if patterns else None
