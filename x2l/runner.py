"""The loop: video -> KV store -> question x selector x top_k -> one record each.

Each video is pre-filled once and each relevance computed once; every answer is on disk before the
next is begun, and a run started again does only what is missing. Knows nothing of Hydra.
"""

import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from x2l.answering import answer_video
from x2l.benchmarks.base import Benchmark, DatasetError, Sample
from x2l.cells import Cell, cells, check_samples
from x2l.compressors.base import Level
from x2l.limits import ContextError
from x2l.memory import MemoryShortage, memory_explained
from x2l.models.base import VideoModel
from x2l.points import POINTS, Point, points, write_points
from x2l.progress import Progress
from x2l.records import RECORDS, Record, RecordKey, RecordWriter, append_json, load
from x2l.runinfo import RunInfo, State, StatusFile, check_folder
from x2l.scoring import outcomes
from x2l.selectors.base import ChunkSelector
from x2l.settings import ConfigError, Settings, check_temporal_patch, config_errors
from x2l.tracking import Tracker
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
        info: goes to run.json, if something is missing.
        tracker: entered only if something is missing.

    Returns:
        Everything answered so far; unreadable videos are in its errors, not raised.

    Raises:
        ConfigError: the folder holds another run, or a value that cannot work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with config_errors():
        sessions = check_folder(folder, info.run_id, info.config, info.checkpoint)
    status = StatusFile(folder, settings.run_id)
    with config_errors():
        loop = _Loop(settings, benchmark, levels, selectors, folder, status)
    try:
        return loop.run(load_model, info, sessions, tracker)
    except KeyboardInterrupt:
        status.write("interrupted", **loop.counts())
        raise
    except Exception as error:
        if not isinstance(error, ConfigError):  # the user is told those in one line
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
        # Everything of this run in the folder, what earlier sessions asked for included.
        self.stored: dict[RecordKey, Record] = {}
        self.errors: list[str] = []
        self.expected: int | None = None
        self.added = 0

    def counts(self) -> dict[str, Any]:
        """What status.json tells."""
        return {
            "records": len(self.stored),
            "expected": self.expected,
            "added": self.added,
            "errors": list(self.errors),
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
        self.status.write("running", **self.counts())
        (self.folder / ERRORS).unlink(missing_ok=True)  # what is still wrong will say so again
        samples = self._samples()
        asked = limited(samples, self.benchmark, limit)
        with config_errors():
            check_samples(asked, self.cells, self.settings)
        self.stored = {r.key: r for r in load(self.folder) if r.run_id == run_id}
        wanted = [cell.key(run_id, s.id) for s in asked for cell in self.cells]
        ever = {*wanted, *self.stored}  # a folder may hold answers of another shard
        for session in sessions:
            earlier = limited(samples, self.benchmark, session["limit"])
            ever |= {Cell.key_of(run_id, s.id, *cell) for s in earlier for cell in session["cells"]}
        self.expected = len(ever)
        missing = sum(key not in self.stored for key in wanted)
        if missing:
            log.info("%d of %d answers are missing", missing, len(wanted))
            self._warn_of_short_answers()
            shown = [list(cell.shown) for cell in self.cells]
            if (warning := info.save(self.folder, shown, limit)) is not None:
                log.warning(warning)
            self._answer_missing(asked, load_model, tracker)
        write_points(self.folder / POINTS, points(self.stored.values()))
        self.status.write(self._state(), **self.counts())
        found = tuple(self.stored[key] for key in wanted if key in self.stored)
        return Summary(found, self.added, len(wanted), tuple(self.errors))

    def _state(self) -> State:
        if self.errors:
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
        with config_errors():
            model = load_model()
            check_temporal_patch(self.settings.chunk_frames, model.temporal_patch)
        todo = [(sample, cells) for sample in samples if (cells := self._missing(sample))]
        with (
            tracker as tracked,
            Progress(sum(len(cells) for _, cells in todo), "answers", unit="answer") as progress,
            RecordWriter(self.folder / RECORDS) as writer,
        ):
            for _, group in groupby(todo, key=lambda asked: asked[0].video_id):
                asked = list(group)
                try:
                    with self._memory_explained(asked[0][0]):
                        for record in answer_video(
                            model, self.benchmark, self.settings, self.levels, asked
                        ):
                            writer.append(record)
                            self.stored[record.key] = record
                            self.added += 1
                            progress.advance()
                except (VideoError, DatasetError, ContextError, MemoryShortage) as error:
                    self._note([sample for sample, _ in asked], error)
                except Exception as error:
                    error.add_note(f"while answering about {asked[0][0].video}")
                    raise
                self.status.write("running", **self.counts())
                tracked.log(self._running())
            tracked.summarize(self._final())

    def _memory_explained(self, sample: Sample) -> AbstractContextManager[None]:
        own = self.settings
        doing = f"answering about {sample.video}"
        return memory_explained(doing, own.frames, own.chunk_frames, own.dtype)

    def _warn_of_short_answers(self) -> None:
        own, given = self.benchmark.max_new_tokens, self.settings.max_new_tokens
        if own is not None and given < own:
            log.warning(
                "max_new_tokens=%d, but the protocol %s of %s lets a model write %d: an answer may be "
                "cut off before its letter; set max_new_tokens=%d to compare numbers",
                given,
                self.benchmark.protocol,
                self.benchmark.name,
                own,
                own,
            )

    def _missing(self, sample: Sample) -> list[Cell]:
        run_id = self.settings.run_id
        return [cell for cell in self.cells if cell.key(run_id, sample.id) not in self.stored]

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

    def _running(self) -> dict[str, float]:
        """Accuracy of every cell so far, over the number of answers."""
        own: dict[str, list[Record]] = defaultdict(list)
        several = _several_settings(self.stored.values())
        for record in self.stored.values():
            own[_label(record, several)].append(record)
        metrics: dict[str, float] = {"answers": float(len(self.stored))}
        for label, records in own.items():
            values = [outcome.value for outcome in outcomes(records)]
            if values:
                metrics[f"accuracy/{label}"] = sum(values) / len(values)
        return metrics

    def _final(self) -> dict[str, float]:
        values: dict[str, float] = {"errors": float(len(self.errors))}
        several = _several_settings(self.stored.values())
        for point in points(self.stored.values()):
            name = _label(point, several)
            values |= {
                f"final/{name}/{field}": getattr(point, field)
                for field in ("accuracy", "low", "high", "n", "kv_share", "flops", "seconds")
            }
        return values


def limited(
    samples: Sequence[Sample], benchmark: Benchmark, limit: int | None
) -> tuple[Sample, ...]:
    """The first `limit` samples, and the other tries of their groups: a limit cuts no group."""
    first = samples[:limit]
    groups = {group for sample in first if (group := benchmark.group(sample)) is not None}
    rest = samples[len(first) :] if groups else ()
    return (*first, *(sample for sample in rest if benchmark.group(sample) in groups))


def _several_settings(records: Iterable[Record]) -> set[str]:
    """The selectors that a folder holds with more than one configuration."""
    configs: dict[str, set[str]] = defaultdict(set)
    for record in records:
        configs[record.selector].add(record.selector_config)
    return {selector for selector, own in configs.items() if len(own) > 1}


def _label(of: Record | Point, several: Collection[str]) -> str:
    name = f"{of.selector} {of.selector_config}" if of.selector in several else of.selector
    return name if of.top_k is None else f"{name} k={of.top_k}"
