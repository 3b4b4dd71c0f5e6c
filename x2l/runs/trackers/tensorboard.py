"""Tracker TensorBoard: scalars of each run, and the sweep's tables, curve and charts.

The only module that imports tensorboard (through torch), and only when a run starts; the extra
`x2l[tensorboard]` brings it. `tensorboard --logdir SWEEP` shows all runs of a sweep.
"""

import importlib.util
import json
import re
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tabulate import tabulate

from x2l.runs.pasted import word
from x2l.runs.run_info import flattened
from x2l.runs.trackers.base import AnswerTable, Chart, SweepTables, Tracker, written_anew

HOME = "tensorboard"
MOST_ANSWERS = 500
SWEEP = "sweep"


class TensorBoardTracker(Tracker):
    """One run in TensorBoard, in `folder/tensorboard`."""

    def __init__(
        self,
        folder: str | Path,
        run_id: str,
        name: str,
        group: str,
        config: Mapping[str, Any],
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: gets `tensorboard/`; made if missing. A run that goes on adds a file there.
            run_id: shown in the text `run`.
            name: shown in the text `run`; TensorBoard itself names runs by their folders.
            group: the sweep.
            config: shown as text and as hyperparameters.

        Raises:
            ValueError: tensorboard is not installed.
        """
        check_installed()
        self.folder = Path(folder) / HOME
        self._run = {"name": name, "group": group, "run_id": run_id}
        self._config = dict(config)
        self._writer: Any = None
        self._answers = 0

    def __enter__(self) -> Self:
        """Starts the run and writes its configuration."""
        self._writer = _writer(self.folder)
        about = "\n".join(f"- {name}: `{value}`" for name, value in self._run.items())
        self._writer.add_text("run", about)
        text = json.dumps(self._config, indent=1, default=str, ensure_ascii=False)
        self._writer.add_text("config", f"```\n{text}\n```")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the run; the text `failed` says why where it failed."""
        if kind is not None:
            self._writer.add_text("failed", f"{kind.__name__}: {value}", self._answers)
        self._writer.close()

    def log(self, metrics: Mapping[str, float]) -> None:
        """Adds one row of metrics, at the step that `answers` says."""
        self._answers = int(metrics.get("answers", self._answers))
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, self._answers)

    def summarize(self, values: Mapping[str, float]) -> None:
        """Sets the run's final values: scalars at the last step, accuracies beside the configuration, too."""
        from torch.utils.tensorboard.summary import hparams

        for name, value in values.items():
            self._writer.add_scalar(name, value, self._answers)
        shown = {n: v for n, v in values.items() if re.fullmatch(r"final/.*/accuracy", n)}
        plain = {  # what hyperparameters may be
            name: value if isinstance(value, int | float) else str(value)
            for name, value in flattened(self._config).items()
        }
        for summary in hparams(plain, shown):
            self._writer.file_writer.add_summary(summary)

    def show_answers(self, answers: AnswerTable) -> None:
        """As text, the first `MOST_ANSWERS`: TensorBoard shows no longer tables."""
        left_out = len(answers.rows) - MOST_ANSWERS
        more = f"\n\nand {left_out} more in records.jsonl" if left_out > 0 else ""
        table = _table(answers.columns, answers.rows[:MOST_ANSWERS])
        self._writer.add_text("answers", table + more, self._answers)
        self._writer.add_text(
            "accuracies", _table(("cell", "accuracy_percent"), answers.accuracies)
        )

    def track_sweep(self, tables: SweepTables, picture: Path, files: Sequence[Path]) -> bool:
        """Writes the sweep's tables, curve and charts; `files` are named, as TensorBoard stores none. See `Tracker`.

        TensorBoard draws scalars over a whole-number step. So every line of a chart is a run of its own, in
        `tensorboard/sweep/CHART/LINE`, whose steps are bytes, FLOPs or microseconds.
        """
        home = self.folder / SWEEP

        def write() -> None:
            if home.exists():
                shutil.rmtree(home)
            writer = _writer(home)
            writer.add_text("title", tables.title)
            writer.add_text("config", _table(("setting", "value"), list(tables.config.items())))
            writer.add_text("points", _table(tables.columns, tables.rows))
            writer.add_text("points_by_task", _table(tables.task_columns, tables.task_rows))
            writer.add_text("files", "\n".join(f"- `{file.name}`" for file in files))
            for chart in tables.charts:
                columns = ("cell", chart.x, "accuracy_percent")
                writer.add_text(f"pareto_{chart.name}", _table(columns, chart.front))
            writer.file_writer.add_summary(_image("curve", picture))
            writer.close()
            for chart in tables.charts:
                _write_chart(home / f"accuracy_versus_{chart.name}", chart)

        return written_anew(home, tables, [picture, *files], None, write)

    def how_to_see(self, folders: Sequence[Path]) -> list[str]:
        """The command that shows all runs."""
        return [f"\nto look at it: tensorboard --logdir {word(folders[0])}"]


def check_installed() -> None:
    """Raises a ValueError that says what to install where tensorboard is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "tracker=tensorboard: tensorboard is not installed; pip install 'x2l[tensorboard]'"
        )


def _write_chart(home: Path, chart: Chart) -> None:
    front = [("Pareto front", x, accuracy) for _, x, accuracy in chart.front]
    by_line: dict[str, list[tuple[float, float]]] = {}
    for line, x, accuracy in [*chart.lines, *front]:
        by_line.setdefault(line, []).append((x, accuracy))
    for line, members in by_line.items():
        writer = _writer(home / re.sub(r"[^\w.+ -]", "_", line))
        for x, accuracy in members:
            step = round(x * chart.steps)
            writer.add_scalar(f"accuracy_percent_versus_{chart.name}", accuracy, step)
        writer.close()


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _image(tag: str, picture: Path) -> Any:
    """The PNG as it is."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    data = picture.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # of the PNG's header
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=data)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """As Markdown, which the text tab shows as a table."""
    words = [[_word(cell) for cell in row] for row in rows]
    return tabulate(words, columns, tablefmt="github", disable_numparse=True)


def _word(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
