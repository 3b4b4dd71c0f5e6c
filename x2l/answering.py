"""One video: read, pre-filled once, and all that is asked about it answered, one record each."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from x2l.asked import AskedQuestion, AskedVideo, stage_fields, top_k_of
from x2l.benchmarks.base import Benchmark, Sample
from x2l.cells import Cell
from x2l.chunks import Prompt
from x2l.compressors.base import Level
from x2l.compute import Meter, kv_bytes
from x2l.fewer_frames import budget_bytes, thinned
from x2l.models.base import VideoModel
from x2l.prefill import check_budgets, prefill
from x2l.progress import Progress
from x2l.records import Record
from x2l.selection import gt_chunks
from x2l.selectors.base import FrameSelector
from x2l.settings import Settings, config_errors
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
        ConfigError: a method's window, sink or group does not fit a chunk of it.
    """
    start = time.perf_counter()
    video_id = asked[0][0].video_id
    frames = read_frames(asked[0][0].video, settings.frames, settings.fps, settings.reader)
    prompt = model.prompt(frames, settings.chunk_frames)
    video = {name: getattr(settings, name) for name in _REPEATED} | {
        "seconds_read": time.perf_counter() - start,
        "kv_bytes_full": kv_bytes(model.shape, prompt.tokens),
        "frames": len(frames.pixels),
        "duration": float(frames.duration),
    }
    if settings.fewer_frames:
        for budget, some in _by_budget(model, prompt, levels, settings, asked):
            tokens = budget / kv_bytes(model.shape, 1)
            fewer, short = thinned(model, frames, settings.chunk_frames, tokens)
            uncompressed = {"high": Level(levels["high"].compressor, 1)}
            store, meter = _prefilled(model, short, uncompressed, settings, video_id)
            fields = video | _video_fields(store, meter) | {"frames_prefilled": len(fewer.pixels)}
            fields["kv_bytes_budget"] = budget
            yield from _answers(
                model, benchmark, settings, AskedVideo(store, fields, {}, prompt), some
            )
        return
    prepared = _prepared(model, frames, prompt, asked)
    store, meter = _prefilled(model, prompt, levels, settings, video_id)
    del frames, prompt  # the pixels of the whole video
    known = AskedVideo(store, video | _video_fields(store, meter), prepared, store.prompt)
    yield from _answers(model, benchmark, settings, known, asked)


def _answers(
    model: VideoModel,
    benchmark: Benchmark,
    settings: Settings,
    video: AskedVideo,
    asked: Sequence[tuple[Sample, Sequence[Cell]]],
) -> Iterator[Record]:
    for sample, cells in asked:
        question = AskedQuestion(model, benchmark, settings, video, sample)
        for cell in cells:
            yield question.record(cell)


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
) -> tuple[KVStore, Meter]:
    with (
        config_errors()
    ):  # a window that does not fit is the user's to correct, and found before anything runs
        check_budgets(levels, prompt, model.shape)
    meter = Meter(model.device)
    label = f"pre-fill of {video_id}, chunks"
    with Progress(len(prompt.chunks), label, unit="chunk", leave=False) as progress:
        store = prefill(
            model,
            prompt,
            levels,
            "full" if settings.fewer_frames else settings.context,
            settings.positions,
            meter,
            video_seed=_seed(settings.seed, video_id),
            progress=progress.at,
        )
    return store, meter


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
            count = k if isinstance(k, int) else len(gt or ())
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
    return fields | {
        **stage_fields(meter, *VIDEO_STAGES),
        "peak_memory_prefill": meter.peak_bytes,
        "kv_bytes_host": sum(store.nbytes("low")) if "low" in store.levels else 0,
    }


def _seed(seed: int, video_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{video_id}".encode()).digest()[:7], "big")
