"""One video: read, pre-filled once, and all that is asked about it answered, one record each."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from x2l.benchmarks.base import Benchmark, Sample
from x2l.compressors.base import Level
from x2l.compressors.draws import seed_of
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.flops import kv_bytes
from x2l.engine.ground_truth import gt_chunks
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.engine.prefill import check_budgets, prefill
from x2l.engine.stages import VIDEO_STAGES
from x2l.engine.top_k import GT
from x2l.evaluation.conditions import Cell
from x2l.evaluation.fewer_frames import budget_bytes, check_budget, thinned
from x2l.evaluation.progress import Progress
from x2l.evaluation.question import AskedQuestion, AskedVideo, stage_fields, top_k_of
from x2l.evaluation.settings import Settings, config_errors
from x2l.models.interface import VideoModel
from x2l.models.out_of_memory import MemoryShortage, memory_explained, naming_stage
from x2l.models.prompt import Prompt
from x2l.runs.out_of_memory_log import Shortage
from x2l.runs.records import Record
from x2l.selectors.base import FrameSelector
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
    cache: PrefillCache | None = None,
) -> Iterator[Record | Shortage]:
    """Pre-fills a video and yields a record for every cell of every question.

    A cell for which memory runs out yields a shortage instead, and the next one is tried.

    Args:
        model: the model.
        benchmark: makes prompts and scores answers.
        settings: of the run.
        levels: `low` and `high`.
        asked: questions about one and the same video, each with the cells to answer it for.
        cache: where pre-fills are kept, if they are.

    Raises:
        VideoError: the file cannot be read.
        RuntimeError, MemoryError: memory ran out for the video itself, see `memory.is_out_of_memory`.
        ConfigError: a method's window, sink or group does not fit a chunk of it.
    """
    start = time.perf_counter()
    video_id = asked[0][0].video_id
    with naming_stage("read"):
        frames = read_frames(asked[0][0].video, settings.frames, settings.fps, settings.reader)
        prompt = model.prompt(frames, settings.chunk_frames)
    video = {name: getattr(settings, name) for name in _REPEATED} | {
        "seconds_read": time.perf_counter() - start,
        "kv_bytes_full": kv_bytes(model.shape, prompt.tokens),
        "ratios_between": dict(settings.between),
        "frames": len(frames.pixels),
        "duration": float(frames.duration),
    }
    with config_errors():
        for top_k in {cell.top_k for _, cells in asked for cell in cells}:  # controls have none
            check_budget(model, prompt, levels, top_k or 0, settings.pinned)
    if settings.fewer_frames:
        for budget, some in _by_budget(model, prompt, levels, settings, asked):
            tokens = budget / kv_bytes(model.shape, 1)
            fewer, short = thinned(model, frames, settings.chunk_frames, tokens)
            uncompressed = {"high": Level(levels["high"].compressor, 1)}
            store, own = _prefilled(model, short, uncompressed, settings, video_id, cache)
            fields = video | own | {"frames_prefilled": len(fewer.pixels)}
            fields["kv_bytes_budget"] = budget
            yield from _answers(
                model, benchmark, settings, AskedVideo(store, fields, {}, prompt), some
            )
        return
    prepared = _prepared(model, frames, prompt, asked)
    store, own = _prefilled(model, prompt, levels, settings, video_id, cache)
    del frames, prompt  # the pixels of the whole video
    known = AskedVideo(store, video | own, prepared, store.prompt)
    yield from _answers(model, benchmark, settings, known, asked)


def _answers(
    model: VideoModel,
    benchmark: Benchmark,
    settings: Settings,
    video: AskedVideo,
    asked: Sequence[tuple[Sample, Sequence[Cell]]],
) -> Iterator[Record | Shortage]:
    frames = video.fields["frames"]
    for sample, cells in asked:
        question = AskedQuestion(model, benchmark, settings, video, sample)
        for cell in cells:
            yield _answered(question, cell, frames)


def _answered(question: AskedQuestion, cell: Cell, frames: int) -> Record | Shortage:
    settings, sample = question.settings, question.sample
    doing = f"answering {sample.id} for {cell.words}"
    try:
        with memory_explained(doing, frames, settings.chunk_frames, settings.dtype):
            return question.record(cell)
    except MemoryShortage as error:
        device = str(question.model.device)
        return shortage(error, settings, question.benchmark, sample, cell, device)


def shortage(
    error: MemoryShortage,
    settings: Settings,
    benchmark: Benchmark,
    sample: Sample,
    cell: Cell,
    device: str,
) -> Shortage:
    """What stands in for the record of a cell that ran out of memory."""
    return Shortage(
        sample_id=sample.id,
        video_id=sample.video_id,
        benchmark=benchmark.name,
        protocol=benchmark.protocol,
        task=sample.task,
        tags=dict(sample.tags),
        selector=cell.name,
        selector_config=cell.config,
        top_k=cell.top_k,
        pinned=cell.pinned,
        stage=error.stage,
        asked_bytes=error.asked_bytes,
        device=device,
        error=str(error),
        frames=settings.frames,
        ratios_between=dict(settings.between),
        **{name: getattr(settings, name) for name in _REPEATED},
    )


def _prepared(
    model: VideoModel,
    frames: Frames,
    prompt: Prompt,
    asked: Sequence[tuple[Sample, Sequence[Cell]]],
) -> dict[str, tuple[Tensor, Meter]]:
    """Shows the frames to the selectors that look at them, once each."""
    used = [cell for _, cells in asked for cell in cells]
    used += [cell.like for cell in used if cell.like is not None]
    found: dict[str, tuple[Tensor, Meter]] = {}
    for cell in used:
        if isinstance(cell.selector, FrameSelector) and cell.name not in found:
            meter = Meter(model.device)
            with meter.stage("retrieval"):
                seen = cell.selector.prepare(frames, prompt.chunks, meter)
            found[cell.name] = seen, meter
    return found


def _prefilled(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    settings: Settings,
    video_id: str,
    cache: PrefillCache | None,
) -> tuple[KVStore, dict[str, Any]]:
    """The KVs, and what the pre-fill adds to the fields that all records of a video share."""
    with (
        config_errors()
    ):  # a window that does not fit is the user's to correct, and found before anything runs
        check_budgets(levels, prompt, model.shape)
    meter, seed = Meter(model.device), seed_of(settings.seed, video_id)
    context = "full" if settings.fewer_frames else settings.context
    positions = settings.positions

    def compute() -> KVStore:
        label = f"pre-fill of {video_id}, chunks"
        with Progress(len(prompt.chunks), label, unit="chunk", leave=False) as progress:
            return prefill(
                model, prompt, levels, context, positions, meter, seed, progress=progress.at
            )

    if cache is None:
        store = compute()
        return store, _video_fields(store, meter)
    shape = {"context": context, "positions": positions}
    store, loaded = cache.get(compute, model, prompt, levels, shape, seed, meter)
    fields = _video_fields(store, meter)
    if loaded is not None:
        fields |= {"seconds_prefill_load": loaded.seconds, "peak_memory_prefill": loaded.peak_bytes}
    return store, fields


def _by_budget(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    settings: Settings,
    asked: Sequence[tuple[Sample, Sequence[Cell]]],
) -> Iterator[tuple[int, list[tuple[Sample, list[Cell]]]]]:
    """The questions and cells of the control `fewer_frames` by the bytes they may spend, fewest first."""
    budgets: dict[int, list[tuple[Sample, list[Cell]]]] = defaultdict(list)
    for sample, cells in asked:
        gt = None if sample.spans is None else gt_chunks(prompt.chunks, sample.spans)
        for cell in cells:
            k = top_k_of(cell, sample, settings, len(prompt.chunks))
            count = len(gt or ()) if k == GT else k
            spent = budget_bytes(model, prompt, levels, count, settings.pinned)
            budgets[spent].append((sample, [cell]))
    yield from sorted(budgets.items(), key=lambda budget: budget[0])


def _video_fields(store: KVStore, meter: Meter) -> dict[str, Any]:
    """What the pre-fill adds to the fields that all records of a video share."""
    fields: dict[str, Any] = {}
    for level in ("low", "high"):
        there = level if level in store.levels else "high"  # the control of fewer frames has one
        fields[f"kept_{level}"] = store.kept(there)
        fields[f"measured_ratio_{level}"] = store.measured_ratio(there)
    between = [level for level in store.levels if level not in ("low", "high")]
    return fields | {
        "kept_between": {level: store.kept(level) for level in between},
        **stage_fields(meter, *VIDEO_STAGES),
        "peak_memory_prefill": meter.peak_bytes,
        "kv_bytes_host": store.nbytes_host,
    }
