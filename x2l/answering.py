"""One video: read, pre-filled once, and all that is asked about it answered, one record each."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from x2l.benchmarks.base import Benchmark, Sample
from x2l.cells import Cell
from x2l.chunks import Question
from x2l.compressors.base import Level
from x2l.compute import Meter, kv_bytes
from x2l.decode import Answer, answer
from x2l.models.base import VideoModel
from x2l.prefill import prefill
from x2l.progress import Progress
from x2l.records import Record, finite
from x2l.selection import gt_chunks, recall_precision, select
from x2l.selectors.base import Query
from x2l.settings import Settings
from x2l.stages import VIDEO_STAGES
from x2l.store import KVStore
from x2l.video import Frames, read_frames

# Settings that every record repeats, under the same name.
_REPEATED = (
    "run_id",
    "model",
    "dtype",
    "fps",
    "chunk_frames",
    "compressor",
    "context",
    "positions",
    "ratio_low",
    "ratio_high",
    "seed",
)


def answer_video(
    model: VideoModel,
    benchmark: Benchmark,
    settings: Settings,
    levels: Mapping[str, Level],
    asked: Sequence[tuple[Sample, Sequence[Cell]]],
) -> Iterator[Record]:
    """Pre-fills a video and yields a record for every cell of every question.

    Args:
        model: the model.
        benchmark: makes prompts and scores answers.
        settings: of the run.
        levels: `low` and `high`.
        asked: questions about one and the same video, each with the cells to answer it for.

    Raises:
        VideoError: the file cannot be read.
    """
    start = time.perf_counter()
    first = asked[0][0]
    frames = read_frames(first.video, settings.frames, settings.fps)
    prompt = model.prompt(frames, settings.chunk_frames)
    read = time.perf_counter() - start
    meter = Meter(model.device)
    label = f"pre-fill of {first.video_id}, chunks"
    with Progress(len(prompt.chunks), label, unit="chunk", leave=False) as progress:
        store = prefill(
            model,
            prompt,
            levels,
            settings.context,
            settings.positions,
            meter,
            video_seed=_seed(settings.seed, first.video_id),
            progress=progress.at,
        )
    video = _video_fields(settings, model, frames, store, meter) | {"seconds_read": read}
    for sample, cells in asked:
        question = _Question(model, benchmark, store, sample, settings.max_new_tokens)
        for cell in cells:
            yield question.record(cell, video)


class _Question:
    """One question about a pre-filled video: relevance once a selector, decoding once a choice."""

    def __init__(
        self,
        model: VideoModel,
        benchmark: Benchmark,
        store: KVStore,
        sample: Sample,
        max_new_tokens: int,
    ) -> None:
        self.model, self.benchmark, self.store = model, benchmark, store
        self.sample, self.max_new_tokens = sample, max_new_tokens
        self.question: Question = model.question(benchmark.prompt(sample))
        chunks = store.prompt.chunks
        self.gt = None if sample.spans is None else gt_chunks(chunks, sample.spans)
        self._relevance: dict[str, tuple[Tensor, Meter]] = {}
        self._answers: dict[tuple[int, ...], tuple[Answer, Meter, int | None]] = {}

    def record(self, cell: Cell, video: Mapping[str, Any]) -> Record:
        """Answers for one cell; `video` are the fields that all records of the video share."""
        relevance, relevance_meter = self._relevance_of(cell)
        selected = select(relevance, self._top_k(cell), cell.pinned, self.gt)
        given, meter, peak = self._answer(selected)
        return Record(
            **video,
            **self._question_fields(),
            **self._selection_fields(cell, relevance, selected),
            **self._answer_fields(given),
            **_stages(relevance_meter, "selection"),
            **_stages(meter, "reload", "decode"),
            peak_memory=peak,
        )

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

    def _answer(self, selected: tuple[int, ...]) -> tuple[Answer, Meter, int | None]:
        """Decodes; cells that select the same chunks share one decoding and its measurements.

        The peak is read at once: the next meter starts it anew.
        """
        if selected not in self._answers:
            meter = Meter(self.model.device)
            given = answer(
                self.model, self.store, self.question, selected, self.max_new_tokens, meter
            )
            self._answers[selected] = given, meter, meter.peak_bytes
        return self._answers[selected]

    def _question_fields(self) -> dict[str, Any]:
        sample = self.sample
        return {
            "sample_id": sample.id,
            "video_id": sample.video_id,
            "benchmark": self.benchmark.name,
            "task": sample.task,
            "group": self.benchmark.group(sample),
            "tags": dict(sample.tags),
            "question": sample.question,
            "answer": sample.answer,
            "gt_chunks": self.gt,
        }

    def _selection_fields(
        self, cell: Cell, relevance: Tensor, selected: tuple[int, ...]
    ) -> dict[str, Any]:
        recall = precision = None
        if self.gt is not None:
            recall, precision = map(finite, recall_precision(selected, self.gt))
        return {
            "selector": cell.name,
            "selector_config": cell.config,
            "top_k": cell.top_k,
            "pinned": cell.pinned,
            "relevance": tuple(
                float(f"{value:.6g}") if math.isfinite(value) else None
                for value in relevance.tolist()
            ),
            "selected": selected,
            "recall": recall,
            "precision": precision,
        }

    def _answer_fields(self, given: Answer) -> dict[str, Any]:
        score = self.benchmark.score(self.sample, given.text)
        return {
            "prediction": given.text,
            "parsed": score.parsed,
            "correct": finite(score.value),
            "kv_bytes_resident": given.kv_bytes_resident,
            "kv_bytes_reloaded": given.kv_bytes_reloaded,
        }


def _video_fields(
    settings: Settings, model: VideoModel, frames: Frames, store: KVStore, meter: Meter
) -> dict[str, Any]:
    """What all records of a video share."""
    fields: dict[str, Any] = {name: getattr(settings, name) for name in _REPEATED}
    for level in ("low", "high"):
        fields[f"kept_{level}"] = store.kept(level)
        fields[f"measured_ratio_{level}"] = store.measured_ratio(level)
    return fields | {
        **_stages(meter, *VIDEO_STAGES),
        "peak_memory_prefill": meter.peak_bytes,
        "kv_bytes_host": sum(store.nbytes("low")),
        "kv_bytes_full": kv_bytes(model.shape, store.prompt.tokens),
        "frames": len(frames.pixels),
        "duration": float(frames.duration),
    }


def _stages(meter: Meter, *stages: str) -> dict[str, Any]:
    flops = {f"flops_{stage}": meter.flops[stage] for stage in stages}
    return flops | {f"seconds_{stage}": meter.seconds[stage] for stage in stages}


def _seed(seed: int, video_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{video_id}".encode()).digest()[:7], "big")
