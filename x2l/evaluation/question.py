"""One question about a pre-filled video: selection and the record, for any number of cells."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial

from x2l.benchmarks.base import Benchmark, Sample
from x2l.engine.assignment import select_bytes
from x2l.engine.decode import Request
from x2l.engine.ground_truth import scene_hit, truth_scores
from x2l.engine.taking import taking_rule
from x2l.engine.top_k import TASK
from x2l.evaluation.answering import Ask
from x2l.evaluation.conditions import Cell
from x2l.evaluation.session import Decoding, Rating, Session
from x2l.evaluation.settings import Settings
from x2l.runs.records import AnswerPart, QuestionPart, Record, SelectionPart, VideoPart, finite
from x2l.selectors.base import Query

log = logging.getLogger(__name__)


class PrefilledQuestion:
    """One question about a pre-filled video: relevance once a selector."""

    def __init__(
        self,
        session: Session,
        video: VideoPart,
        benchmark: Benchmark,
        settings: Settings,
        sample: Sample,
        gt: tuple[int, ...] | None,
    ) -> None:
        """Takes the question in.

        Args:
            session: the video that it is about.
            video: what all records of that video share.
            benchmark: makes prompts and scores answers.
            settings: of the run.
            sample: the question.
            gt: ground-truth chunks; None = not known.

        Raises:
            ContextError: question and answer do not fit the model's context.
        """
        self.session, self.video, self.benchmark, self.settings = (
            session,
            video,
            benchmark,
            settings,
        )
        self.sample, self.gt = sample, gt
        chunks = session.store.prompt.chunks
        prompt = benchmark.prompt(sample, [second for c in chunks for second in c.frame_seconds])
        self.question = session.question(prompt, settings.max_new_tokens)
        if gt == ():
            log.warning(
                "question %s has no ground-truth chunk and no recall: its spans %s lie outside the %.1f s of the video",
                sample.id,
                sample.spans,
                chunks[-1].seconds[1],
            )
        self._ratings: dict[str, Rating] = {}

    def ask(self, cell: Cell) -> Ask:
        """What is to be decoded for a cell: rates the chunks and assigns their levels."""
        assignment = self._assignment(cell)
        request = Request(self.question, assignment)
        return Ask(self.sample, cell, request, partial(self._record, cell, assignment))

    def _record(self, cell: Cell, assignment: tuple[str, ...], decoding: Decoding) -> Record:
        return Record(
            condition=cell.condition,
            video=self.video,
            question=question_part(self.benchmark, self.sample, self.gt),
            selection=self._selection_part(cell, assignment),
            answer=answer_part(self.benchmark, self.sample, decoding),
        )

    def _assignment(self, cell: Cell) -> tuple[str, ...]:
        """The level that a cell gives each chunk."""
        relevance, store = self._rating(cell).relevance, self.session.store
        if cell.matched_to is not None:
            sizes, partner = store.nbytes(store.finest), self._assignment(cell.matched_to)
            budget = sum(sizes[i] for i, level in enumerate(partner) if level == store.finest)
            return store.reloading(select_bytes(relevance, sizes, budget))
        top_k = method_top_k(cell, self.sample, self.settings.top_k_by_task)
        condition = cell.condition
        taking = taking_rule(condition.taking, condition.seed)
        return self.session.assign(
            relevance, top_k, condition.pinned, self.gt, taking, self._draws_key
        )

    @property
    def _draws_key(self) -> str:
        """The tries of one question share their draws: a hit is a hit in all of them."""
        return self.benchmark.group(self.sample) or self.sample.id

    def _rating(self, cell: Cell) -> Rating:
        name, sample = cell.condition.selector, self.sample
        if name not in self._ratings:
            query = Query(
                self.question,
                self._draws_key,
                sample.spans,
                text=sample.question,
                choices=sample.choices,
                video=sample.video,
            )
            self._ratings[name] = self.session.rate(name, cell.selector, query)
        return self._ratings[name]

    def _selection_part(self, cell: Cell, assignment: tuple[str, ...]) -> SelectionPart:
        rating, name = self._rating(cell), cell.condition.selector
        coarsest = self.session.store.coarsest
        reloaded = [index for index, level in enumerate(assignment) if level != coarsest]
        scores = None if self.gt is None else truth_scores(reloaded, self.gt)
        preparation = self.session.prepared.get(name)
        retrieval = None if preparation is None else preparation.meter
        return SelectionPart(
            relevance=tuple(
                float(f"{value:.6g}") if math.isfinite(value) else None
                for value in rating.relevance.tolist()
            ),
            assigned=assignment,
            recall=None if scores is None else finite(scores.recall),
            precision=None if scores is None else finite(scores.precision),
            hit=None if scores is None else finite(scores.hit),
            scene_hit=self._scene_hit(reloaded),
            tuned_on=None if cell.condition.top_k is None else self.settings.tuned_on,
            flops={
                "retrieval": 0 if retrieval is None else retrieval.flops["retrieval"],
                "selection": rating.meter.flops["selection"],
            },
            seconds={
                "retrieval": 0.0 if retrieval is None else retrieval.seconds["retrieval"],
                "selection": rating.meter.seconds["selection"],
            },
            peak_memory={
                "retrieval": None if retrieval is None else retrieval.peaks["retrieval"],
                "selection": rating.meter.peaks["selection"],
            },
            kv_bytes_streamed=rating.meter.streamed_bytes,
            selector_bytes_resident=0 if preparation is None else preparation.features.nbytes,
        )

    def _scene_hit(self, reloaded: Sequence[int]) -> float | None:
        sample = self.sample
        if sample.spans is None:
            return None
        scenes = range(len(sample.spans)) if sample.scenes is None else sample.scenes
        chunks = self.session.store.prompt.chunks
        return finite(scene_hit(chunks, sample.spans, scenes, reloaded))


def method_top_k(cell: Cell, sample: Sample, by_task: Mapping[str, int]) -> int | str:
    """The top_k of one question: its task's where that is what the cell says, 0 for a single level."""
    top_k = cell.condition.top_k
    return by_task[sample.task] if top_k == TASK else top_k or 0


def question_part(benchmark: Benchmark, sample: Sample, gt: Sequence[int] | None) -> QuestionPart:
    """The question in a record."""
    return QuestionPart(
        sample_id=sample.id,
        task=sample.task,
        group=benchmark.group(sample),
        tries=benchmark.tries,
        tags=dict(sample.tags),
        question=sample.question,
        answer=sample.answer,
        row=sample.row,
        gt_chunks=None if gt is None else tuple(gt),
        mean=benchmark.mean,
        unparsed=benchmark.unparsed,
        options=len(sample.choices) or None,
    )


def answer_part(benchmark: Benchmark, sample: Sample, decoding: Decoding) -> AnswerPart:
    """The answer in a record, scored."""
    said, meter = decoding.answer, decoding.meter
    score = benchmark.score(sample, said.text)
    return AnswerPart(
        prediction=said.text,
        parsed=score.parsed,
        correct=finite(score.value),
        guess=score.guess,
        kv_bytes_stored=said.kv_bytes_stored,
        kv_bytes_attended=said.kv_bytes_attended,
        kv_bytes_reloaded=said.kv_bytes_reloaded,
        flops={stage: meter.flops[stage] for stage in ("reload", "decode")},
        seconds={stage: meter.seconds[stage] for stage in ("reload", "decode")},
        peak_memory={stage: meter.peaks[stage] for stage in ("reload", "decode")},
    )
