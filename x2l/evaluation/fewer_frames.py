"""Controls that spend what the method takes on fewer frames, none of them compressed: its KV bytes, or its FLOPs.

How many frames that is depends on the model: its processor may give each frame more tokens when there are fewer. So
it is found for every video by preparing the prompt, and what came of it is measured: in a record `kv_bytes_stored`
stands beside `kv_bytes_budget`, and the sum of its FLOPs beside `flops_budget`. Both come as near as whole time steps
can.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from x2l.benchmarks.base import Benchmark, Sample
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import Request
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.disk_cache.kept_frames import FrameCache
from x2l.engine.top_k import GT
from x2l.evaluation.answering import Answering, Ask
from x2l.evaluation.budgets import budget_flops
from x2l.evaluation.conditions import Cell
from x2l.evaluation.question import answer_part, method_top_k, question_part
from x2l.evaluation.session import Decoding, Session, open_session
from x2l.evaluation.settings import EQUAL_FLOPS, Settings, config_errors
from x2l.evaluation.stored_bytes import expected_bytes
from x2l.evaluation.video import (
    Questions,
    SampledVideo,
    read_video,
    truth,
    video_part,
)
from x2l.frames import SampledFrames
from x2l.models.interface import VideoModel
from x2l.models.out_of_memory import MemoryAdvice
from x2l.models.prompt import Prompt
from x2l.runs.out_of_memory_log import OutOfMemory
from x2l.runs.records import Record, SelectionPart, VideoPart


def answer_with_fewer_frames(
    model: VideoModel,
    benchmark: Benchmark,
    settings: Settings,
    levels: Mapping[str, Level],
    questions: Questions,
    cache: PrefillCache | None = None,
    frame_cache: FrameCache | None = None,
) -> Iterator[Record | OutOfMemory]:
    """As `answer_video`, but pre-fills the video once for each budget of bytes or FLOPs that the method would spend.

    Arguments and errors are those of `answer_video`.
    """
    advice = MemoryAdvice.of(model, settings.chunk_frames, settings.level_names[0])
    video = read_video(model, settings, levels, questions, advice, True, frame_cache)
    name = tuple(levels)[-1]
    uncompressed = {name: Level(KeyNorm(), 1)}  # at ratio 1 no compressor runs
    by_flops = settings.control == EQUAL_FLOPS
    size: Callable[[Prompt], float] = partial(
        expected_bytes, model, levels=uncompressed, top_k=0, pinned=()
    )
    spending = None
    if by_flops:
        spending = _Spending(model, video, benchmark, levels, settings, questions)
        size = spending.uncompressed
    for budget, same_budget in _by_budget(model, video, levels, settings, questions, spending):
        with advice.explained(f"pre-fill of {video.frames.path}", video.count):
            frames, prompt = thinned(model, video.frames, settings.chunk_frames, budget, size)
            session = open_session(
                model,
                frames,
                prompt,
                uncompressed,
                "full",
                settings.positions,
                settings.seed,
                {},
                cache,
            )
        count = len(frames.seconds)
        del frames, prompt
        part = video_part(
            video,
            session,
            dict.fromkeys(levels, name),
            None if by_flops else budget,
            budget if by_flops else None,
            count,
        )
        answering = Answering(session, settings, advice, count)
        yield from answering.answers(
            answering.asked(
                partial(
                    _ask,
                    session,
                    part,
                    benchmark,
                    settings,
                    sample,
                    cell,
                    truth(video.prompt.chunks, sample),
                ),
                sample,
                cell,
            )
            for sample, cell in same_budget
        )


def _ask(
    session: Session,
    video: VideoPart,
    benchmark: Benchmark,
    settings: Settings,
    sample: Sample,
    cell: Cell,
    gt: tuple[int, ...] | None,
) -> Ask:
    """Nothing is rated and nothing re-loaded: there are no chunks to choose from."""
    chunks = session.store.prompt.chunks
    prompt = benchmark.prompt(sample, [second for c in chunks for second in c.frame_seconds])
    question = session.question(prompt, settings.max_new_tokens)
    request = Request(question, (session.store.coarsest,) * len(chunks))
    return Ask(
        sample,
        cell,
        request,
        partial(_record, video, benchmark, settings, sample, cell, gt, request),
    )


def _record(
    video: VideoPart,
    benchmark: Benchmark,
    settings: Settings,
    sample: Sample,
    cell: Cell,
    gt: tuple[int, ...] | None,
    request: Request,
    decoding: Decoding,
) -> Record:
    selection = SelectionPart(
        relevance=(None,) * len(request.assignment),
        assigned=request.assignment,
        recall=None,
        precision=None,
        hit=None,
        scene_hit=None,
        tuned_on=settings.tuned_on,
        flops={"retrieval": 0, "selection": 0},
        seconds={"retrieval": 0.0, "selection": 0.0},
        peak_memory={"retrieval": None, "selection": None},
    )
    return Record(
        condition=cell.condition,
        video=video,
        question=question_part(benchmark, sample, gt),
        selection=selection,
        answer=answer_part(benchmark, sample, decoding),
    )


def _by_budget(
    model: VideoModel,
    video: SampledVideo,
    levels: Mapping[str, Level],
    settings: Settings,
    questions: Questions,
    spending: _Spending | None,
) -> Iterator[tuple[int, list[tuple[Sample, Cell]]]]:
    """Questions and cells by the bytes, or FLOPs, that the method would spend on them, fewest first."""
    budgets: dict[int, list[tuple[Sample, Cell]]] = defaultdict(list)
    for sample, cells in questions:
        for cell in cells:
            top_k = method_top_k(cell, sample, settings.top_k_by_task)
            if top_k == GT:
                top_k = len(truth(video.prompt.chunks, sample) or ())
            pinned = cell.condition.pinned
            if spending is None:
                spent = expected_bytes(model, video.prompt, levels, top_k, pinned)
            else:
                spent = spending.method(top_k, pinned)
            budgets[spent].append((sample, cell))
    yield from sorted(budgets.items(), key=lambda budget: budget[0])


class _Spending:
    """FLOPs of a lone question about one video. Final.

    The question counts as long as the longest about the video, the answer as long as it may be, so that all of them
    have one pre-fill; what vision takes for a token is what it takes for one of the first chunk.
    """

    def __init__(
        self,
        model: VideoModel,
        video: SampledVideo,
        benchmark: Benchmark,
        levels: Mapping[str, Level],
        settings: Settings,
        questions: Questions,
    ) -> None:
        first = video.prompt.chunks[0]
        seconds = [second for chunk in video.prompt.chunks for second in chunk.frame_seconds]
        texts = [benchmark.prompt(sample, seconds) for sample, _ in questions]
        with config_errors():  # a question that cannot be asked is the user's to correct
            asked = [len(model.question(text).input_ids) for text in texts]
        self._model, self._prompt, self._levels = model, video.prompt, levels
        self._context = settings.context
        self._vision = model.embed_chunk(video.prompt, first).flops / first.visual_tokens
        self._words = max(asked), settings.max_new_tokens

    def method(self, top_k: int | str, pinned: Sequence[str]) -> int:
        """Of the method."""
        levels, context = self._levels, self._context
        return budget_flops(
            self._model, self._prompt, levels, context, top_k, pinned, self._vision, *self._words
        )

    def uncompressed(self, prompt: Prompt) -> int:
        """Of the model alone, for the prompt of some of the frames."""
        whole = {"whole": Level(KeyNorm(), 1)}
        return budget_flops(self._model, prompt, whole, "full", 0, (), self._vision, *self._words)


def thinned(
    model: VideoModel,
    frames: SampledFrames,
    chunk_frames: int,
    target: float,
    size: Callable[[Prompt], float],
) -> tuple[SampledFrames, Prompt]:
    """As many of the frames as have the prompt whose size is nearest to a target; the more, if two are.

    They are spread over the video by the rule of `read_frames`, as in a run that samples as many.

    Args:
        model: prepares prompts.
        frames: the sampled frames to choose from.
        chunk_frames: of the prompt.
        target: to come near to.
        size: of a prompt; it grows with the number of frames.
    """
    step = model.temporal_patch
    most = -(-len(frames.seconds) // step)  # the last step may be short of frames

    def taken(steps: int) -> tuple[SampledFrames, Prompt]:
        count = min(steps * step, len(frames.seconds))
        at = torch.from_numpy(np.linspace(0, len(frames.seconds) - 1, count, dtype=int))
        fewer = frames.taken(at)
        return fewer, model.prompt(fewer, chunk_frames)

    # Bisection to the smallest number of time steps that reaches the target.
    below, reaching = 0, most
    while reaching - below > 1:
        middle = (below + reaching) // 2
        if size(taken(middle)[1]) < target:
            below = middle
        else:
            reaching = middle
    nearest = taken(reaching)
    if below:
        lower = taken(below)
        if abs(size(lower[1]) - target) < abs(size(nearest[1]) - target):
            return lower
    return nearest
