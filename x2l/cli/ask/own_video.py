"""A video of one's own: pre-filled once, then asked any number of questions, one reply each.

No benchmark, no record, nothing printed: `x2l-ask` does that. Knows nothing of Hydra.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from x2l.cli.ask.clock import merged
from x2l.compressors.base import Level
from x2l.engine.assignment import assigned
from x2l.engine.context_length import check_question
from x2l.engine.decode import answer
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.flops import answer_flops, kv_bytes
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.engine.stages import PREFILL_STAGES, VIDEO_STAGES
from x2l.evaluation.conditions import Cell
from x2l.evaluation.fewer_frames import budget_tokens, check_budget
from x2l.evaluation.progress import Progress
from x2l.evaluation.settings import Settings, config_errors
from x2l.models.interface import VideoModel
from x2l.models.out_of_memory import memory_explained
from x2l.models.prompt import Chunk, Prompt
from x2l.selectors.base import FrameSelector, Query
from x2l.video import Frames

THUMBNAIL = 320  # pixels of a thumbnail's longer side, at most


@dataclass(frozen=True)
class VideoFacts:
    """A pre-filled video, and what that took.

    Attributes:
        path: the file.
        duration: seconds.
        frames: sampled.
        size: (width, height) in pixels, as sampled.
        spans: (start, end) of every chunk, seconds.
        tokens: of the prompt: text before the video, and the video.
        kv_bytes_full: what the KVs of all of them would take, uncompressed.
        kv_bytes_host: L-KVs of all chunks, waiting on the host.
        flops: of vision, pre-fill and compression, closed form.
        seconds: of the same, measured; of a pre-fill that was kept, when it was computed.
        seconds_load: that loading it took; None if it was computed now.
    """

    path: str
    duration: float
    frames: int
    size: tuple[int, int]
    spans: tuple[tuple[float, float], ...]
    tokens: int
    kv_bytes_full: int
    kv_bytes_host: int
    flops: int
    seconds: float
    seconds_load: float | None = None


@dataclass(frozen=True)
class Reply:
    """The answer to one question, and what it took.

    Attributes:
        question: the user's words.
        answer: the model's.
        cut_off: whether it was ended by `max_new_tokens`, not by the model.
        relevance: of every chunk; None where a selector rules a chunk in or out without rating it.
        reloaded: chunks re-loaded as L-KVs, or at a level between, rising.
        assigned: the level of every chunk.
        spans: their (start, end) in seconds, neighbours as one.
        kv_bytes_resident: of the mixed cache that the answer was decoded from.
        flops: of selection and decoding, closed form.
        flops_full: of the same question and answer over uncompressed KVs, without selection.
        seconds: of selection, re-loading and decoding, measured.
    """

    question: str
    answer: str
    cut_off: bool
    relevance: tuple[float | None, ...]
    reloaded: tuple[int, ...]
    assigned: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    kv_bytes_resident: int
    flops: int
    flops_full: int
    seconds: float


class OwnVideo:
    """A pre-filled video that can be asked. Final; `open_video` makes one."""

    def __init__(
        self,
        model: VideoModel,
        settings: Settings,
        cell: Cell,
        store: KVStore,
        prepared: Tensor | None,
        facts: VideoFacts,
    ) -> None:
        """Keeps what answering needs.

        Args:
            model: the model.
            settings: of the run.
            cell: selector, top_k and pinned chunks.
            store: KVs of the video.
            prepared: what the selector remembers of the frames, if it looks at them.
            facts: for who asks.
        """
        self.model, self.settings, self.cell = model, settings, cell
        self.store, self.prepared, self.facts = store, prepared, facts

    def ask(self, text: str) -> Reply:
        """Answers one question from the pre-fill.

        Raises:
            ConfigError: a question that cannot be asked, e.g. as it holds the model's video placeholder.
            ContextError: question and answer do not fit the model's context.
            MemoryShortage: memory ran out.
        """
        start = time.perf_counter()
        doing = f"answering about {self.facts.path}"
        settings = self.settings
        with memory_explained(
            doing,
            self.facts.frames,
            settings.chunk_frames,
            settings.dtype,
            self.model.temporal_patch,
        ):
            return self._reply(text, start)

    def _reply(self, text: str, start: float) -> Reply:
        model, store, cell = self.model, self.store, self.cell
        meter = Meter(model.device)
        with config_errors():
            question = model.question(text)
        limit, facts = model.shape.context_length, self.facts
        own, most = len(question.input_ids), self.settings.max_new_tokens
        # Before the selector, too, runs the question: over the all-high cache.
        cached = store.prefix.tokens[0] + sum(kv.tokens[0] for kv in store.levels["high"])
        check_question(limit, cached, 0, own, most)
        query = Query(question, text, text=text, video=facts.path, prepared=self.prepared)
        with config_errors(), meter.stage("selection"):
            relevance = cell.selector.relevance(query, store, model, meter)
        with config_errors():
            top_k = 0 if cell.top_k is None else cell.top_k
            levels = assigned(relevance, top_k, store, facts.kv_bytes_full, cell.pinned)
        chosen = tuple(index for index, level in enumerate(levels) if level != "high")
        given = answer(model, store, question, levels, most, meter)
        return Reply(
            question=text,
            answer=given.text,
            cut_off=len(given.token_ids) == most and given.token_ids[-1] not in model.end_tokens,
            relevance=tuple(r if math.isfinite(r) else None for r in relevance.tolist()),
            reloaded=chosen,
            assigned=levels,
            spans=merged(facts.spans, chosen),
            kv_bytes_resident=given.kv_bytes_resident,
            flops=sum(meter.flops.values()),
            flops_full=answer_flops(model.shape, store.prompt.tokens, own, len(given.token_ids)),
            seconds=time.perf_counter() - start,
        )


def open_video(
    model: VideoModel,
    frames: Frames,
    prompt: Prompt,
    levels: Mapping[str, Level],
    cell: Cell,
    settings: Settings,
    cache: PrefillCache | None = None,
) -> OwnVideo:
    """Pre-fills a video, with a progress bar.

    Args:
        model: the model.
        frames: of the video.
        prompt: of these frames.
        levels: `low` and `high`.
        cell: selector, top_k and pinned chunks.
        settings: checked values.
        cache: where pre-fills are kept, if they are.

    Raises:
        ContextError: the video is longer than the model's context.
        MemoryShortage: memory ran out.
    """
    meter, count = Meter(model.device), len(frames.pixels)
    doing = f"pre-fill of {frames.path}"
    prepared = None
    torch.manual_seed(settings.seed)
    with (
        memory_explained(doing, count, settings.chunk_frames, settings.dtype, model.temporal_patch),
        Progress(len(prompt.chunks), "pre-fill, chunks", unit="chunk", leave=False) as progress,
    ):
        start = time.perf_counter()
        if isinstance(cell.selector, FrameSelector):
            prepared = cell.selector.prepare(frames, prompt.chunks, meter)
        context, positions, seed = settings.context, settings.positions, settings.seed

        def compute() -> KVStore:
            return prefill(
                model, prompt, levels, context, positions, meter, seed, progress=progress.at
            )

        loaded = None
        if cache is None:
            store = compute()
        else:
            shape = {"context": context, "positions": positions}
            store, loaded = cache.get(compute, model, prompt, levels, shape, seed, meter)
        seconds = time.perf_counter() - start
        if loaded is not None:
            seconds += sum(meter.seconds[stage] for stage in PREFILL_STAGES) - loaded.seconds
    facts = VideoFacts(
        path=frames.path,
        duration=frames.duration,
        frames=count,
        size=(frames.pixels.shape[2], frames.pixels.shape[1]),
        spans=_spans(prompt.chunks, frames.duration),
        tokens=prompt.tokens,
        kv_bytes_full=kv_bytes(model.shape, prompt.tokens),
        kv_bytes_host=store.nbytes_host,
        flops=sum(meter.flops[stage] for stage in VIDEO_STAGES),
        seconds=seconds,
        seconds_load=None if loaded is None else loaded.seconds,
    )
    return OwnVideo(model, settings, cell, store, prepared, facts)


def _spans(chunks: Sequence[Chunk], duration: float) -> tuple[tuple[float, float], ...]:
    """(start, end) of the chunks; the last one's frames stand as long as the others, but not beyond the file's end."""
    *others, last = (chunk.seconds for chunk in chunks)
    end = min(last[1], max(duration, chunks[-1].frame_seconds[-1]))
    return (*others, (last[0], end))


def check_questions(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    settings: Settings,
    cell: Cell,
    questions: Sequence[str],
) -> None:
    """Checks questions before the pre-fill, which takes the time.

    Raises:
        ValueError: one of them cannot be asked, see `OwnVideo.ask`.
    """
    top_k = 0 if cell.top_k is None else cell.top_k
    check_budget(model, prompt, levels, top_k, cell.pinned)
    cached = budget_tokens(model, prompt, levels, top_k, cell.pinned)
    start = prompt.next_position if settings.positions == "keep" else 0
    for text in questions:
        tokens = len(model.question(text).input_ids)
        check_question(model.shape.context_length, cached, start, tokens, settings.max_new_tokens)


def thumbnails(frames: Frames, chunks: Sequence[Chunk]) -> tuple[Tensor, ...]:
    """The middle frame of each chunk, small: `(height, width, 3)`, uint8."""
    found = []
    for chunk in chunks:
        image = frames.pixels[sum(chunk.frames) // 2].permute(2, 0, 1)[None].float()
        scale = min(1.0, THUMBNAIL / max(image.shape[2:]))
        size = [max(1, round(scale * side)) for side in image.shape[2:]]
        small = functional.interpolate(image, size, mode="area")[0].permute(1, 2, 0)
        found.append(small.round().to(torch.uint8))
    return tuple(found)
