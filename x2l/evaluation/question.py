"""One question about a pre-filled video: selection, decoding and the record, for any number of cells."""

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from x2l.benchmarks.base import Benchmark, Sample
from x2l.engine.assignment import assigned, select_bytes
from x2l.engine.decode import Answer, answer
from x2l.engine.ground_truth import gt_chunks, truth_scores
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.engine.top_k import TASK
from x2l.evaluation.conditions import Cell
from x2l.evaluation.settings import Settings, config_errors
from x2l.models.interface import VideoModel
from x2l.models.prompt import Prompt, Question
from x2l.runs.records import Record, finite
from x2l.selectors.base import Query
from x2l.selectors.from_file import FileSelector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskedVideo:
    """What answering needs to know of a video.

    Attributes:
        store: its KVs.
        fields: what all its records share.
        prepared: what each selector that looks at frames remembers of them, and what that took.
        sampled: its prompt with all sampled frames; ground-truth chunks are chunks of that.
    """

    store: KVStore
    fields: Mapping[str, Any]
    prepared: Mapping[str, tuple[Tensor, Meter]]
    sampled: Prompt


def top_k_of(cell: Cell, sample: Sample, settings: Settings, chunks: int) -> int | str:
    """A short video has fewer chunks than a long one; more than all of them cannot be taken."""
    k = settings.top_k_by_task[sample.task] if cell.top_k == TASK else cell.top_k
    return min(k, chunks) if isinstance(k, int) else k or 0


class AskedQuestion:
    """One question about a pre-filled video: relevance once a selector, decoding once a choice."""

    def __init__(
        self,
        model: VideoModel,
        benchmark: Benchmark,
        settings: Settings,
        video: AskedVideo,
        sample: Sample,
    ) -> None:
        """Takes the question in; nothing is computed yet.

        Args:
            model: the model.
            benchmark: makes prompts and scores answers.
            settings: of the run.
            video: what the question is about.
            sample: the question.
        """
        self.model, self.benchmark, self.settings = model, benchmark, settings
        self.video, self.store, self.sample = video, video.store, sample
        seconds = [second for c in self.store.prompt.chunks for second in c.frame_seconds]
        self.question: Question = model.question(benchmark.prompt(sample, seconds))
        spans = sample.spans
        self.gt = None if spans is None else gt_chunks(video.sampled.chunks, spans)
        if self.gt == () and not settings.fewer_frames:  # which has no chunks to choose from
            log.warning(
                "question %s has no ground-truth chunk and no recall: its spans %s lie outside the %.1f s of the video",
                sample.id,
                spans,
                video.sampled.chunks[-1].seconds[1],
            )
        self._relevance: dict[str, tuple[Tensor, Meter]] = {}
        self._answers: dict[tuple[str, ...], tuple[Answer, Meter, int | None]] = {}

    def record(self, cell: Cell) -> Record:
        """Answers for one cell."""
        relevance, relevance_meter = self._relevance_of(cell)
        chunks = len(self.store.prompt.chunks)
        levels = ("high",) * chunks if self.settings.fewer_frames else self._assigned(cell)
        given, meter, peak = self._answer(levels)
        fields: dict[str, Any] = {
            **self.video.fields,
            **self._question_fields(),
            **self._selection_fields(cell, relevance, levels),
            **self._answer_fields(given),
            **stage_fields(relevance_meter, "selection"),
            **stage_fields(meter, "reload", "decode"),
            "peak_memory": peak,
        }
        if cell.name in self.video.prepared:
            fields |= stage_fields(self.video.prepared[cell.name][1], "retrieval")
        return Record(**fields)

    def _assigned(self, cell: Cell) -> tuple[str, ...]:
        """The level that a cell gives each chunk."""
        relevance, _ = self._relevance_of(cell)
        store = self.store
        if cell.like is not None:
            sizes = store.nbytes("low")
            other = self._assigned(cell.like)
            budget = sum(sizes[index] for index, level in enumerate(other) if level == "low")
            return store.reloading(select_bytes(relevance, sizes, budget))
        k = top_k_of(cell, self.sample, self.settings, len(relevance))
        full = self.video.fields["kv_bytes_full"]
        return assigned(relevance, k, store, full, cell.pinned, self.gt)

    def _relevance_of(self, cell: Cell) -> tuple[Tensor, Meter]:
        if cell.name not in self._relevance:
            meter = Meter(self.model.device)
            prepared = self.video.prepared.get(cell.name)
            query = Query(
                self.question,
                # The tries of one question share their draws: a hit is a hit in all of them.
                self.benchmark.group(self.sample) or self.sample.id,
                self.sample.spans,
                text=self.sample.question,
                choices=self.sample.choices,
                video=self.sample.video,
                prepared=None if prepared is None else prepared[0],
            )
            # A file that does not fit the sampling is the user's to correct; any other ValueError is a fault.
            file = isinstance(cell.selector, FileSelector)
            with config_errors() if file else nullcontext(), meter.stage("selection"):
                relevance = cell.selector.relevance(query, self.store, self.model, meter)
            self._relevance[cell.name] = relevance, meter
        return self._relevance[cell.name]

    def _answer(self, levels: tuple[str, ...]) -> tuple[Answer, Meter, int | None]:
        """Decodes; cells that assign the same levels share one decoding and its measurements.

        The peak is read at once: the next meter starts it anew.
        """
        if levels not in self._answers:
            meter = Meter(self.model.device)
            given = answer(
                self.model, self.store, self.question, levels, self.settings.max_new_tokens, meter
            )
            self._answers[levels] = given, meter, meter.peak_bytes
        return self._answers[levels]

    def _question_fields(self) -> dict[str, Any]:
        sample = self.sample
        return {
            "sample_id": sample.id,
            "video_id": sample.video_id,
            "benchmark": self.benchmark.name,
            "task": sample.task,
            "group": self.benchmark.group(sample),
            "tries": self.benchmark.tries,
            "tags": dict(sample.tags),
            "question": sample.question,
            "answer": sample.answer,
            "gt_chunks": self.gt,
            "row": sample.row,
            "protocol": self.benchmark.protocol,
            "mean": self.benchmark.mean,
            "unparsed": self.benchmark.unparsed,
        }

    def _selection_fields(
        self, cell: Cell, relevance: Tensor, levels: tuple[str, ...]
    ) -> dict[str, Any]:
        selected = tuple(index for index, level in enumerate(levels) if level != "high")
        # The control of fewer frames has no chunks to choose from.
        known = self.gt is not None and not self.settings.fewer_frames
        scores = asdict(truth_scores(selected, self.gt or ())) if known else {}
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
            **{name: finite(scores.get(name, math.nan)) for name in ("recall", "precision", "hit")},
            "assigned": levels if self.settings.between else (),
            "tuned_on": self.settings.tuned_on if cell.top_k is not None else None,
        }

    def _answer_fields(self, given: Answer) -> dict[str, Any]:
        score = self.benchmark.score(self.sample, given.text)
        return {
            "prediction": given.text,
            "parsed": score.parsed,
            "correct": finite(score.value),
            "guess": score.guess,
            "kv_bytes_resident": given.kv_bytes_resident,
            "kv_bytes_reloaded": given.kv_bytes_reloaded,
        }


def stage_fields(meter: Meter, *stages: str) -> dict[str, Any]:
    """FLOPs and seconds of some stages, as a record names them."""
    flops = {f"flops_{stage}": meter.flops[stage] for stage in stages}
    return flops | {f"seconds_{stage}": meter.seconds[stage] for stage in stages}
