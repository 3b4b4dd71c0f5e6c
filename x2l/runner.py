"""The loop: video -> KV store -> question x selector x top_k -> one record each.

Each video is pre-filled once and each relevance computed once; every answer is on disk before the
next is begun, and a run started again does only what is missing. Knows nothing of Hydra.
"""

import hashlib
import logging
import math
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from x2l.benchmarks.base import Benchmark, Sample
from x2l.chunks import Question
from x2l.compressors.base import Level
from x2l.compute import Meter, kv_bytes
from x2l.decode import Answer, answer
from x2l.models.base import VideoModel
from x2l.points import POINTS, VIDEO_STAGES, points, write_points
from x2l.prefill import prefill
from x2l.progress import Progress
from x2l.records import RECORDS, Record, RecordWriter, append_json, finite, load
from x2l.runinfo import RunInfo, StatusFile
from x2l.selection import gt_chunks, recall_precision, select
from x2l.selectors.base import ChunkSelector, Query
from x2l.selectors.fixed import SelectAll, SelectNone
from x2l.selectors.oracle import OracleSelector
from x2l.settings import Settings, check_temporal_patch
from x2l.store import KVStore
from x2l.tracking import Tracker
from x2l.video import VideoError, read_frames

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


@dataclass(frozen=True)
class Cell:
    """A selector at a top_k; for the controls `all` and `none` there is no k and nothing pinned."""

    name: str
    selector: ChunkSelector
    config: str
    top_k: int | str | None
    pinned: tuple[str, ...]

    def key(self, run_id: str, sample_id: str) -> tuple[str, ...]:
        """The key of this cell's record for a sample."""
        pinned = "+".join(self.pinned)
        return (run_id, sample_id, self.name, self.config, str(self.top_k), pinned)


def cells(selectors: Mapping[str, ChunkSelector], settings: Settings) -> tuple[Cell, ...]:
    """Every (selector, top_k) of a run, each once, in the order given."""
    found: list[Cell] = []
    for name, selector in selectors.items():
        config = _selector_config(selector)
        if isinstance(selector, SelectAll | SelectNone):
            found.append(Cell(name, selector, config, None, ()))
        else:
            ks = dict.fromkeys(settings.top_k)
            found += [Cell(name, selector, config, k, settings.pinned) for k in ks]
    return tuple(found)


def check_truth(samples: Sequence[Sample], asked: Sequence[Cell]) -> None:
    """Checks that the benchmark says where answers lie, if a cell needs to know.

    Raises:
        ValueError: it does not.
    """
    unknown = [sample.id for sample in samples if sample.spans is None]
    for cell in asked:
        if unknown and (cell.top_k == "gt" or isinstance(cell.selector, OracleSelector)):
            field = "top_k=gt" if cell.top_k == "gt" else f"selector={cell.name}"
            raise ValueError(
                f"{field}: the benchmark does not say where the answer to {unknown[0]} lies "
                f"(nor for {len(unknown) - 1} more questions); leave it out here"
            )


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
        todo = [sample for sample in samples if self._missing(sample)]
        with (
            tracker as tracked,
            Progress(len(todo), "questions") as progress,
            RecordWriter(self.folder / RECORDS) as writer,
        ):
            for _, group in groupby(todo, key=lambda sample: sample.video_id):
                questions = list(group)
                try:
                    for record in self._video(model, questions, progress):
                        writer.append(record)
                        self._keep(record)
                        self.added += 1
                except (VideoError, torch.OutOfMemoryError) as error:
                    self._note(questions, error)
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

    def _video(
        self, model: VideoModel, questions: Sequence[Sample], progress: Progress
    ) -> Iterator[Record]:
        """Pre-fills a video and yields the records that its questions lack."""
        settings = self.settings
        start = time.perf_counter()
        frames = read_frames(questions[0].video, settings.frames, settings.fps)
        prompt = model.prompt(frames, settings.chunk_frames)
        read = time.perf_counter() - start
        meter = Meter(model.device)
        store = prefill(
            model,
            prompt,
            self.levels,
            settings.context,
            settings.positions,
            meter,
            video_seed=_seed(settings.seed, questions[0].video_id),
        )
        video = self._video_fields(model, store, meter)
        video |= {
            "seconds_read": read,
            "frames": len(frames.pixels),
            "duration": float(frames.duration),
        }
        for sample in questions:
            yield from _Asked(self, model, store, sample, video).records(self._missing(sample))
            progress.advance()

    def _video_fields(self, model: VideoModel, store: KVStore, meter: Meter) -> dict[str, Any]:
        """What all records of a video share."""
        settings = self.settings
        fields: dict[str, Any] = {
            name: getattr(settings, name)
            for name in (
                "run_id",
                "model",
                "fps",
                "chunk_frames",
                "compressor",
                "context",
                "positions",
                "ratio_low",
                "ratio_high",
                "seed",
            )
        }
        for level in ("low", "high"):
            fields[f"kept_{level}"] = store.kept(level)
            fields[f"measured_ratio_{level}"] = store.measured_ratio(level)
        fields["kv_bytes_full"] = kv_bytes(model.shape, store.prompt.tokens)
        for stage in VIDEO_STAGES:
            fields[f"flops_{stage}"] = meter.flops[stage]
            fields[f"seconds_{stage}"] = meter.seconds[stage]
        return fields

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


class _Asked:
    """One question about a pre-filled video: relevance once a selector, decoding once a choice."""

    def __init__(
        self, loop: _Loop, model: VideoModel, store: KVStore, sample: Sample, video: dict[str, Any]
    ) -> None:
        self.loop, self.model, self.store = loop, model, store
        self.sample, self.video = sample, video
        self.question: Question = model.question(loop.benchmark.prompt(sample))
        chunks = store.prompt.chunks
        self.gt = None if sample.spans is None else gt_chunks(chunks, sample.spans)
        self._relevance: dict[str, tuple[Tensor, Meter]] = {}
        self._answers: dict[tuple[int, ...], tuple[Answer, Meter]] = {}

    def records(self, missing: Sequence[Cell]) -> Iterator[Record]:
        """Yields one record for each cell."""
        for cell in missing:
            relevance, relevance_meter = self._relevance_of(cell)
            selected = select(relevance, self._top_k(cell), cell.pinned, self.gt)
            given, meter = self._answer(selected)
            yield self._record(cell, relevance, relevance_meter, selected, given, meter)

    def _top_k(self, cell: Cell) -> int | str:
        """A short video has fewer chunks than a long one; more than all of them cannot be taken."""
        if isinstance(cell.top_k, int):
            return min(cell.top_k, len(self.store.prompt.chunks))
        return cell.top_k or 0

    def _relevance_of(self, cell: Cell) -> tuple[Tensor, Meter]:
        if cell.name not in self._relevance:
            meter = Meter(self.model.device)
            query = Query(self.question, self.sample.id, self.sample.spans)
            with meter.stage("selection"):
                relevance = cell.selector.relevance(query, self.store, self.model, meter)
            self._relevance[cell.name] = relevance, meter
        return self._relevance[cell.name]

    def _answer(self, selected: tuple[int, ...]) -> tuple[Answer, Meter]:
        """Decodes; cells that select the same chunks share one decoding and its measurements."""
        if selected not in self._answers:
            meter = Meter(self.model.device)
            limit = self.loop.settings.max_new_tokens
            given = answer(self.model, self.store, self.question, selected, limit, meter)
            self._answers[selected] = given, meter
        return self._answers[selected]

    def _record(
        self,
        cell: Cell,
        relevance: Tensor,
        relevance_meter: Meter,
        selected: tuple[int, ...],
        given: Answer,
        meter: Meter,
    ) -> Record:
        sample = self.sample
        score = self.loop.benchmark.score(sample, given.text)
        recall = precision = None
        if self.gt is not None:
            recall, precision = map(finite, recall_precision(selected, self.gt))
        stages = {
            f"{kind}_{stage}": getattr(source, kind)[stage]
            for kind in ("flops", "seconds")
            for stage, source in (
                ("selection", relevance_meter),
                ("reload", meter),
                ("decode", meter),
            )
        }
        return Record(
            sample_id=sample.id,
            video_id=sample.video_id,
            benchmark=self.loop.benchmark.name,
            task=sample.task,
            group=self.loop.benchmark.group(sample),
            question=sample.question,
            answer=sample.answer,
            prediction=given.text,
            parsed=score.parsed,
            correct=finite(score.value),
            selector=cell.name,
            selector_config=cell.config,
            top_k=cell.top_k,
            pinned=cell.pinned,
            relevance=tuple(
                float(f"{value:.6g}") if math.isfinite(value) else None
                for value in relevance.tolist()
            ),
            selected=selected,
            gt_chunks=self.gt,
            recall=recall,
            precision=precision,
            kv_bytes_resident=given.kv_bytes_resident,
            kv_bytes_reloaded=given.kv_bytes_reloaded,
            peak_memory=meter.peak_bytes,
            **stages,
            **self.video,
        )


def _selector_config(selector: ChunkSelector) -> str:
    """Short hash of a selector's class and settings: its repr, as selectors are dataclasses."""
    text = repr(selector)
    if " at 0x" in text:
        raise TypeError(f"selector {text}: must be a frozen dataclass, so that its settings show")
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _seed(seed: int, video_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{video_id}".encode()).digest()[:7], "big")


def _label(selector: str, top_k: int | str | None) -> str:
    return selector if top_k is None else f"{selector} k={top_k}"
