"""The loop: video -> KV store -> question x selector x top_k -> one record each.

Each video is pre-filled once and each relevance computed once; every answer is on disk before the
next is begun, and a run started again does only what is missing. Knows nothing of Hydra.
"""

import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from x2l.answering import answer_video
from x2l.benchmarks.base import Benchmark, Sample
from x2l.cells import Cell, cells, check_truth
from x2l.compressors.base import Level
from x2l.models.base import VideoModel
from x2l.points import POINTS, points, write_points
from x2l.progress import Progress
from x2l.records import RECORDS, Record, RecordWriter, append_json, load
from x2l.runinfo import RunInfo, StatusFile
from x2l.selectors.base import ChunkSelector
from x2l.settings import Settings, check_temporal_patch
from x2l.tracking import Tracker
from x2l.video import VideoError

ERRORS = "errors.jsonl"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        records: every answer in the folder that belongs to the run.
        added: how many of them are new.
        expected: how many there are when nothing is missing.
        errors: one line for each video that could not be used.
    """

    records: tuple[Record, ...]
    added: int
    expected: int
    errors: tuple[str, ...]


def run(
    settings: Settings,
    benchmark: Benchmark,
    load_model: Callable[[], VideoModel],
    levels: Mapping[str, Level],
    selectors: Mapping[str, ChunkSelector],
    folder: Path,
    info: RunInfo,
    tracker: Tracker,
) -> Summary:
    """Answers what is not yet answered in `folder`, and writes records, status and points there.

    Args:
        settings: checked values.
        benchmark: samples and their scores.
        load_model: called once, and only if something is missing.
        levels: `low` and `high`.
        selectors: by the name that records give them.
        folder: of this run; made if missing.
        info: goes to run.json.
        tracker: entered only if something is missing.

    Returns:
        Everything answered so far; unreadable videos are in its errors, not raised.

    Raises:
        ValueError: the folder holds another run, or a value that cannot work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (warning := info.save(folder)) is not None:
        log.warning(warning)
    status = StatusFile(folder, settings.run_id)
    loop = _Loop(settings, benchmark, levels, selectors, folder, status)
    try:
        return loop.run(load_model, tracker)
    except KeyboardInterrupt:
        status.write("interrupted", **loop.counts())
        raise
    except Exception as error:
        if not isinstance(error, ValueError):  # those are told to the user in one line
            log.exception("the run failed")
        reason = f"{type(error).__name__}: {error}"
        status.write("failed", **loop.counts(), error=reason, traceback=traceback.format_exc())
        raise


class _Loop:
    """One call of `run`."""

    def __init__(
        self,
        settings: Settings,
        benchmark: Benchmark,
        levels: Mapping[str, Level],
        selectors: Mapping[str, ChunkSelector],
        folder: Path,
        status: StatusFile,
    ) -> None:
        self.settings, self.benchmark, self.levels = settings, benchmark, levels
        self.folder, self.status = folder, status
        self.cells = cells(selectors, settings)
        self.records: dict[tuple[str, ...], Record] = {}
        # (selector, top_k) -> right, parsed; what the tracker shows while the run lasts
        self.tallies: dict[tuple[str, int | str | None], list[float]]
        self.tallies = defaultdict(lambda: [0.0, 0.0])
        self.errors: list[str] = []
        self.expected: int | None = None
        self.added = 0

    def counts(self) -> dict[str, Any]:
        """What status.json tells."""
        return {
            "records": len(self.records),
            "expected": self.expected,
            "added": self.added,
            "errors": list(self.errors),
        }

    def run(self, load_model: Callable[[], VideoModel], tracker: Tracker) -> Summary:
        """Prepares, answers what is missing, and ends with points and status."""
        settings = self.settings
        self.status.write("running", **self.counts())
        log.info("preparing benchmark %s", self.benchmark.name)
        self.benchmark.prepare()
        samples = self.benchmark.samples()[: settings.limit]
        check_truth(samples, self.cells)
        wanted = {cell.key(settings.run_id, s.id) for s in samples for cell in self.cells}
        for record in load(self.folder):
            if record.key in wanted:
                self._keep(record)
        self.expected = len(wanted)
        if missing := self.expected - len(self.records):
            log.info("%d of %d answers are missing", missing, self.expected)
            self._answer_missing(samples, load_model, tracker)
        write_points(self.folder / POINTS, points(self.records.values()))
        self.status.write("done-with-errors" if self.errors else "done", **self.counts())
        found = tuple(self.records.values())
        return Summary(found, self.added, self.expected, tuple(self.errors))

    def _answer_missing(
        self,
        samples: Sequence[Sample],
        load_model: Callable[[], VideoModel],
        tracker: Tracker,
    ) -> None:
        torch.manual_seed(self.settings.seed)
        model = load_model()
        check_temporal_patch(self.settings.chunk_frames, model.temporal_patch)
        todo = [(sample, cells) for sample in samples if (cells := self._missing(sample))]
        with (
            tracker as tracked,
            Progress(sum(len(cells) for _, cells in todo), "answers") as progress,
            RecordWriter(self.folder / RECORDS) as writer,
        ):
            for _, group in groupby(todo, key=lambda asked: asked[0].video_id):
                asked = list(group)
                try:
                    for record in answer_video(
                        model, self.benchmark, self.settings, self.levels, asked
                    ):
                        writer.append(record)
                        self._keep(record)
                        self.added += 1
                        progress.advance()
                except (VideoError, torch.OutOfMemoryError) as error:
                    self._note([sample for sample, _ in asked], error)
                self.status.write("running", **self.counts())
                tracked.log(self._running())
            tracked.summarize(self._final())

    def _missing(self, sample: Sample) -> list[Cell]:
        run_id = self.settings.run_id
        return [cell for cell in self.cells if cell.key(run_id, sample.id) not in self.records]

    def _note(self, questions: Sequence[Sample], error: Exception) -> None:
        """Writes down a video that cannot be used; the run goes on."""
        reason = f"{type(error).__name__}: {error}"
        sample = questions[0]
        log.error("video %s is left out: %s", sample.video_id, reason)
        self.errors.append(f"{sample.video_id}: {reason}")
        append_json(
            self.folder / ERRORS,
            {
                "run_id": self.settings.run_id,
                "video_id": sample.video_id,
                "video": sample.video,
                "questions": len(questions),
                "error": reason,
            },
        )

    def _keep(self, record: Record) -> None:
        """Takes a record in, and into the running accuracy of its cell."""
        self.records[record.key] = record
        if record.correct is not None:
            tally = self.tallies[record.selector, record.top_k]
            tally[0] += record.correct
            tally[1] += 1

    def _running(self) -> dict[str, float]:
        """Accuracy of every cell so far, over the number of answers."""
        metrics: dict[str, float] = {"answers": float(len(self.records))}
        for cell in self.cells:
            right, parsed = self.tallies[cell.name, cell.top_k]
            if parsed:
                metrics[f"accuracy/{_label(cell.name, cell.top_k)}"] = right / parsed
        return metrics

    def _final(self) -> dict[str, float]:
        values: dict[str, float] = {"errors": float(len(self.errors))}
        for point in points(self.records.values()):
            name = _label(point.selector, point.top_k)
            values |= {
                f"final/{name}/{field}": getattr(point, field)
                for field in ("accuracy", "low", "high", "n", "kv_share", "flops", "seconds")
            }
        return values


def _label(selector: str, top_k: int | str | None) -> str:
    return selector if top_k is None else f"{selector} k={top_k}"
