"""The loop: video -> KV store -> question x selector x top_k -> one record each.

Each video is pre-filled once and each relevance computed once; every batch of answers is on disk before the
next is begun, and a run started again does only what is missing. Knows nothing of Hydra.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from x2l.analysis import run_metrics as metrics
from x2l.analysis.points import POINTS, points, write_points
from x2l.benchmarks.base import Benchmark, DatasetError, Sample
from x2l.compressors.base import Level
from x2l.engine.context_length import ContextError
from x2l.engine.disk_cache.cache import open_cache
from x2l.engine.disk_cache.kept_frames import open_frame_cache
from x2l.evaluation.answering import out_of_memory
from x2l.evaluation.conditions import Cell, cells, check_samples
from x2l.evaluation.fewer_frames import answer_with_fewer_frames
from x2l.evaluation.progress import Progress
from x2l.evaluation.settings import Settings, check_temporal_patch, config_errors
from x2l.evaluation.video import Questions, answer_video
from x2l.models.interface import NotFiniteError, VideoModel
from x2l.models.out_of_memory import MemoryShortage, loading_explained
from x2l.runs import condition
from x2l.runs.job_status import State, StatusFile
from x2l.runs.out_of_memory_log import (
    OutOfMemory,
    append_out_of_memory,
    load_out_of_memory,
    unanswered,
)
from x2l.runs.records import RECORDS, Record, RecordKey, RecordWriter, append_json, load
from x2l.runs.run_info import RunInfo, check_folder
from x2l.runs.trackers.base import Tracker
from x2l.selectors.base import ChunkSelector
from x2l.video import VideoError

ERRORS = "errors.jsonl"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        records: every answer in the folder that this run asks for.
        added: how many of them are new.
        expected: how many there are when nothing is missing.
        errors: one line for each video that could not be used.
        out_of_memory: the answers asked for that ran out of memory.
    """

    records: tuple[Record, ...]
    added: int
    expected: int
    errors: tuple[str, ...]
    out_of_memory: tuple[OutOfMemory, ...] = ()


def run(
    settings: Settings,
    benchmark: Benchmark,
    load_model: Callable[[], VideoModel],
    levels: Mapping[str, Level],
    selectors: Mapping[str, ChunkSelector],
    folder: Path,
    info: RunInfo,
    tracker: Tracker,
    status: StatusFile | None = None,
) -> Summary:
    """Answers what is not yet answered in `folder`, and writes records, status and points there.

    Args:
        settings: checked values.
        benchmark: samples and their scores.
        load_model: called once, and only if something is missing.
        levels: by name, finest first.
        selectors: by the name that records give them.
        folder: of this run; made if missing.
        info: goes to run.json, if something is missing.
        tracker: entered only if something is missing.
        status: tells how the job stands; None starts one in `folder`.

    Returns:
        Everything answered so far; unreadable videos and answers that ran out of memory are in it, not raised.

    Raises:
        ConfigError: the folder holds another run, or a value that cannot work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with config_errors():
        sessions = check_folder(folder, info.run_id, info.config, info.checkpoint)
    status = status or StatusFile(folder, settings.run_id)
    with status.kept():
        with config_errors():
            loop = _Loop(settings, benchmark, levels, selectors, folder, status)
        try:
            return loop.run(load_model, info, sessions, tracker)
        finally:  # however it ends
            status.count(**loop.counts())


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
        settings.check_chunks()
        self.cells = cells(selectors, settings, benchmark.name, benchmark.protocol)
        # Now, as it reads the sources of compressors, which may be edited while the run goes on.
        self.cache = open_cache(settings.prefill_cache, settings.prefill_cache_gb, levels)
        self.frame_cache = open_frame_cache(settings.video_cache, settings.video_cache_gb)
        # Everything of this run in the folder, what earlier sessions asked for included.
        self.stored: dict[RecordKey, Record] = {}
        self.out_of_memory: dict[RecordKey, OutOfMemory] = {}
        self.errors: list[str] = []
        self.settled: set[RecordKey] = set()  # by this call: answered, out of memory or left out
        self.expected: int | None = None
        self.missing = self.added = self.videos = self.videos_done = 0
        self.began: float | None = None

    def counts(self) -> dict[str, Any]:
        """What status.json tells: of the folder, and of this job, whose pace is `added` in `seconds`."""
        return {
            "records": len(self.stored),
            "expected": self.expected,
            "missing": self.missing,
            "added": self.added,
            "settled": len(self.settled),
            "videos": self.videos,
            "videos_done": self.videos_done,
            "seconds": None if self.began is None else round(time.monotonic() - self.began, 1),
            "errors": list(self.errors),
            "out_of_memory": len(self.out_of_memory),
        }

    def run(
        self,
        load_model: Callable[[], VideoModel],
        info: RunInfo,
        sessions: Sequence[Mapping[str, Any]],
        tracker: Tracker,
    ) -> Summary:
        """Prepares, answers what is missing, and ends with points and status."""
        run_id, limit = self.settings.run_id, self.settings.limit
        self.status.write("running", doing="preparing the benchmark")
        (self.folder / ERRORS).unlink(missing_ok=True)  # what is still wrong will say so again
        samples = self._samples()
        questions = limited(samples, self.benchmark, limit)
        with config_errors():
            check_samples(questions, self.cells, self.settings)
        self.stored = {r.key: r for r in load(self.folder) if r.condition.run_id == run_id}
        failures = unanswered(load_out_of_memory(self.folder), self.stored.values())
        self.out_of_memory = {f.key: f for f in failures if f.condition.run_id == run_id}
        wanted = [cell.key(sample) for sample in questions for cell in self.cells]
        ever = {*wanted, *self.stored}  # a folder may hold answers of another shard
        for session in sessions:
            earlier = limited(samples, self.benchmark, session["limit"])
            conditions = [condition.from_json(values) for values in session["conditions"]]
            ever |= {(cell, sample.id) for sample in earlier for cell in conditions}
        self.expected = len(ever)
        self.missing = sum(key not in self.stored for key in wanted)
        if self.missing:
            log.info("%d of %d answers are missing", self.missing, len(wanted))
            self._warn_of_short_answers()
            asked_for = [condition.to_json(cell.condition) for cell in self.cells]
            if (warning := info.save(self.folder, asked_for, limit)) is not None:
                log.warning(warning)
            self._answer_missing(questions, load_model, tracker)
        rows = points(self.stored.values(), out_of_memory=self.out_of_memory.values())
        write_points(self.folder / POINTS, rows)
        self.status.write(self._state(), doing=None, **self.counts())
        records = tuple(self.stored[key] for key in wanted if key in self.stored)
        failed = tuple(self.out_of_memory[key] for key in wanted if key in self.out_of_memory)
        return Summary(records, self.added, len(wanted), tuple(self.errors), failed)

    def _state(self) -> State:
        if self.errors or self.out_of_memory:
            return "done-with-errors"
        return "done" if len(self.stored) == self.expected else "incomplete"

    def _samples(self) -> tuple[Sample, ...]:
        """Every sample; making the files of a benchmark may take a while."""
        with Progress(1, f"preparing {self.benchmark.name}, videos", unit="video") as progress:
            self.benchmark.prepare(progress.at)
        return self.benchmark.samples()

    def _answer_missing(
        self,
        samples: Sequence[Sample],
        load_model: Callable[[], VideoModel],
        tracker: Tracker,
    ) -> None:
        torch.manual_seed(self.settings.seed)
        missing = [(sample, cells) for sample in samples if (cells := self._missing(sample))]
        self.videos = len({sample.video_id for sample, _ in missing})
        self.status.write("running", doing="loading the model", **self.counts())
        settings = self.settings
        try:
            with config_errors(), loading_explained(settings.dtype):
                model = load_model()
                check_temporal_patch(settings.chunk_frames, model.temporal_patch)
        except MemoryShortage as error:
            self._keep_failures(missing, error, settings.device or "cuda")
            return
        answer = answer_with_fewer_frames if settings.fewer_frames else answer_video
        caches = (self.cache, self.frame_cache)
        self.began = time.monotonic()
        self.status.write("running", doing="answering", **self.counts())
        total = sum(len(cells) for _, cells in missing)
        with (
            tracker as tracked,
            Progress(total, "answers", unit="answer") as progress,
            RecordWriter(self.folder / RECORDS) as writer,
        ):
            for _, group in groupby(missing, key=lambda question: question[0].video_id):
                questions = list(group)
                try:
                    for result in answer(
                        model, self.benchmark, settings, self.levels, questions, *caches
                    ):
                        if isinstance(result, Record):
                            self._keep(result, writer)
                        else:
                            log.error("%s", result.error)
                            self._keep_failure(result)
                        progress.advance()
                except MemoryShortage as error:
                    self._keep_failures(questions, error, str(model.device))
                except (VideoError, DatasetError, ContextError, NotFiniteError) as error:
                    self._leave_out(questions, error)
                except Exception as error:
                    error.add_note(f"while answering about {questions[0][0].video}")
                    raise
                self.videos_done += 1
                self.status.tell(**self.counts())
                tracked.log(metrics.running(self.stored.values()))
            errors = {"errors": float(len(self.errors))}
            tracked.summarize({**errors, **metrics.final(self.stored.values())})
            tracked.show_answers(metrics.answer_table(self.stored.values()))
        for cache in caches:
            if cache is not None:
                log.info(cache.files.summary())

    def _keep(self, record: Record, writer: RecordWriter) -> None:
        writer.append(record)
        self.stored[record.key] = record
        self.out_of_memory.pop(record.key, None)
        self.settled.add(record.key)
        self.added += 1
        self.status.tell(**self.counts())

    def _keep_failure(self, failure: OutOfMemory) -> None:
        append_out_of_memory(self.folder, failure)
        self.out_of_memory[failure.key] = failure
        self.settled.add(failure.key)

    def _keep_failures(self, questions: Questions, error: MemoryShortage, device: str) -> None:
        """Writes down that every cell of a video ran out of memory; the run goes on."""
        log.error("%s", error)
        for sample, unanswered_cells in questions:
            for cell in unanswered_cells:
                # The control of fewer frames pre-fills once a budget: some are answered by now.
                if cell.key(sample) not in self.stored:
                    self._keep_failure(out_of_memory(error, sample, cell, device))

    def _warn_of_short_answers(self) -> None:
        protocol, configured = self.benchmark.max_new_tokens, self.settings.max_new_tokens
        if protocol is not None and configured < protocol:
            log.warning(
                "max_new_tokens=%d, but the protocol %s of %s lets a model write %d: an answer may be "
                "cut off before its letter; set max_new_tokens=%d to compare numbers",
                configured,
                self.benchmark.protocol,
                self.benchmark.name,
                protocol,
                protocol,
            )

    def _missing(self, sample: Sample) -> list[Cell]:
        return [cell for cell in self.cells if cell.key(sample) not in self.stored]

    def _leave_out(self, questions: Questions, error: Exception) -> None:
        """Writes down a video that cannot be used; the run goes on."""
        reason = f"{type(error).__name__}: {error}"
        sample = questions[0][0]
        self.settled |= {cell.key(sample) for sample, cells in questions for cell in cells}
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


def limited(
    samples: Sequence[Sample], benchmark: Benchmark, limit: int | None
) -> tuple[Sample, ...]:
    """The first `limit` samples, and the other tries of their groups: a limit cuts no group."""
    first = samples[:limit]
    groups = {group for sample in first if (group := benchmark.group(sample)) is not None}
    rest = samples[len(first) :] if groups else ()
    return (*first, *(sample for sample in rest if benchmark.group(sample) in groups))
