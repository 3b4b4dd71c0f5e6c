"""One video: read, pre-filled once, and all questions about it answered, one record each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from x2l.benchmarks.base import Benchmark, Sample
from x2l.compressors.base import Level
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.disk_cache.kept_frames import FrameCache
from x2l.engine.flops import kv_bytes
from x2l.engine.ground_truth import gt_chunks
from x2l.engine.stages import PREFILL_STAGES
from x2l.evaluation.answering import Answering, Ask
from x2l.evaluation.budgets import check_budget
from x2l.evaluation.conditions import Cell
from x2l.evaluation.question import PrefilledQuestion
from x2l.evaluation.session import Session, open_session
from x2l.evaluation.settings import Settings, config_errors
from x2l.frames import SampledFrames, held
from x2l.models.interface import VideoModel
from x2l.models.out_of_memory import MemoryAdvice, reading_explained
from x2l.models.prompt import Chunk, Prompt
from x2l.runs.out_of_memory_log import OutOfMemory
from x2l.runs.records import Record, VideoPart, finite
from x2l.selectors.base import ChunkSelector
from x2l.video import open_frames

HELD = (
    128_000_000  # bytes of frames that are kept in memory where they are looked at more than once
)
Questions = Sequence[tuple[Sample, Sequence[Cell]]]  # about one and the same video


def answer_video(
    model: VideoModel,
    benchmark: Benchmark,
    settings: Settings,
    levels: Mapping[str, Level],
    questions: Questions,
    cache: PrefillCache | None = None,
    frame_cache: FrameCache | None = None,
) -> Iterator[Record | OutOfMemory]:
    """Pre-fills a video and yields a record for every cell of every question.

    A cell for which memory runs out yields that instead, and the next one is tried.

    Args:
        model: the model.
        benchmark: makes prompts and scores answers.
        settings: of the run.
        levels: by name, finest first.
        questions: each with the cells to answer it for.
        cache: where pre-fills are kept, if they are.
        frame_cache: where sampled frames are kept, if they are.

    Raises:
        VideoError: the file cannot be read.
        ContextError: the video, or a question, is longer than the model's context.
        MemoryShortage: memory ran out for the video itself.
        ConfigError: a method's window, sink or group does not fit a chunk, or a budget is below what the video takes.
    """
    advice = MemoryAdvice.of(model, settings.chunk_frames, settings.level_names[0])
    looks = cache is not None  # whose addresses follow from the pixels
    video = read_video(model, settings, levels, questions, advice, looks, frame_cache)
    with advice.explained(f"pre-fill of {video.frames.path}", video.count):
        session = open_session(
            model,
            video.frames,
            video.prompt,
            levels,
            settings.context,
            settings.positions,
            settings.seed,
            _selectors(questions),
            cache,
        )
    part, count = video_part(video, session, {name: name for name in levels}), video.count
    chunks = session.store.prompt.chunks
    del video  # it may hold its pixels
    answering = Answering(session, settings, advice, count)

    def asks() -> Iterator[Ask | OutOfMemory]:
        for sample, cells in questions:
            gt = truth(chunks, sample)
            question = PrefilledQuestion(session, part, benchmark, settings, sample, gt)
            for cell in cells:
                yield answering.asked(partial(question.ask, cell), sample, cell)

    yield from answering.answers(asks())


@dataclass(frozen=True)
class SampledVideo:
    """A video as it was opened: what is known of it before its pre-fill."""

    id: str
    frames: SampledFrames
    prompt: Prompt
    kv_bytes_full: int
    seconds_open: float

    @property
    def count(self) -> int:
        """Frames sampled."""
        return len(self.frames.seconds)


def read_video(
    model: VideoModel,
    settings: Settings,
    levels: Mapping[str, Level],
    questions: Questions,
    advice: MemoryAdvice,
    looks: bool,
    frame_cache: FrameCache | None,
) -> SampledVideo:
    """Samples the frames, which are decoded later, and makes the prompt.

    Args:
        model: the model.
        settings: of the run.
        levels: by name, finest first.
        questions: about the video.
        advice: for where memory runs out.
        looks: whether the frames are looked at more than once.
        frame_cache: where sampled frames are kept, if they are.

    Raises:
        VideoError: the file cannot be read.
        MemoryShortage: memory ran out.
        ConfigError: a budget is below what every mixed cache of this video takes.
    """
    sample, start = questions[0][0], time.perf_counter()
    with reading_explained(sample.video):
        frames = sampled_frames(sample.video, settings, frame_cache)
        if looks:
            frames = held(frames, HELD)
    with advice.explained(f"preparing {sample.video}", len(frames.seconds)):
        prompt = model.prompt(frames, settings.chunk_frames)
    seconds = time.perf_counter() - start
    with config_errors():
        for top_k in {cell.condition.top_k for _, cells in questions for cell in cells} - {None}:
            check_budget(model, prompt, levels, top_k or 0, settings.pinned)
    full = kv_bytes(model.shape, prompt.tokens)
    return SampledVideo(sample.video_id, frames, prompt, full, seconds)


def sampled_frames(path: str, settings: Settings, frame_cache: FrameCache | None) -> SampledFrames:
    """The frames that a run samples of a file.

    Raises:
        VideoError: the file cannot be read.
    """
    opened = open_frames if frame_cache is None else frame_cache.open
    return opened(path, settings.frames, settings.fps, settings.reader)


def video_part(
    video: SampledVideo,
    session: Session,
    stored_as: Mapping[str, str],
    kv_bytes_budget: int | None = None,
    flops_budget: int | None = None,
    frames_prefilled: int | None = None,
) -> VideoPart:
    """What all records of a pre-filled video share.

    Args:
        video: as it was sampled.
        session: its pre-fill, or that of fewer of its frames.
        stored_as: level of the condition -> level of the session's store that stands for it.
        kv_bytes_budget: of the control of fewer frames that holds KV bytes equal.
        flops_budget: of the one that holds a question's FLOPs equal.
        frames_prefilled: by that control.
    """
    store, meter = session.store, session.meter
    return VideoPart(
        video_id=video.id,
        frames_sampled=video.count,
        duration=float(video.frames.duration),
        kept={name: store.kept(level) for name, level in stored_as.items()},
        measured_ratio={
            name: finite(store.measured_ratio(level)) for name, level in stored_as.items()
        },
        kv_bytes_host=store.nbytes_host,
        kv_bytes_full=video.kv_bytes_full,
        flops={stage: meter.flops[stage] for stage in PREFILL_STAGES},
        seconds={
            "read": video.seconds_open + session.seconds_read,
            **{stage: meter.seconds[stage] for stage in PREFILL_STAGES},
        },
        peak_memory={stage: meter.peaks[stage] for stage in PREFILL_STAGES},
        kv_bytes_budget=kv_bytes_budget,
        flops_budget=flops_budget,
        frames_prefilled=frames_prefilled,
        seconds_prefill_load=session.seconds_load,
    )


def truth(chunks: Sequence[Chunk], sample: Sample) -> tuple[int, ...] | None:
    """Ground-truth chunks of a question; None where the benchmark does not say."""
    return None if sample.spans is None else gt_chunks(chunks, sample.spans)


def _selectors(questions: Questions) -> dict[str, ChunkSelector]:
    """By name, those that others are matched to included."""
    cells = [cell for _, cells in questions for cell in cells]
    partners = [cell.matched_to for cell in cells if cell.matched_to is not None]
    return {cell.condition.selector: cell.selector for cell in (*cells, *partners)}
