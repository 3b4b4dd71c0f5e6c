"""A video of one's own, as `x2l-ask` asks and shows it. Knows nothing of Hydra."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from x2l.compressors.base import Level
from x2l.engine.context_length import check_question
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.meter import Meter
from x2l.engine.stages import VIDEO_STAGES
from x2l.evaluation.budgets import budget_tokens, check_budget
from x2l.evaluation.conditions import Cell
from x2l.evaluation.library import Reply, answers
from x2l.evaluation.session import Session, open_session
from x2l.evaluation.settings import Settings
from x2l.frames import SampledFrames
from x2l.models.interface import VideoModel
from x2l.models.out_of_memory import MemoryAdvice
from x2l.models.prompt import Chunk, Prompt
from x2l.selectors.base import Query

THUMBNAIL = 320  # pixels of a thumbnail's longer side, at most
THUMBNAILS = 2**26  # bytes of all of them: those of a long video are smaller


@dataclass(frozen=True)
class OwnVideo:
    """A pre-filled video that can be asked; `open_video` makes one. Final.

    Attributes:
        session: the pre-fill.
        settings: of the run.
        cell: selector, top_k and pinned chunks.
        advice: for where memory runs out.
        duration: seconds.
        frames: sampled.
        size: (width, height) in pixels, as sampled.
        spans: (start, end) of every chunk, seconds.
    """

    session: Session
    settings: Settings
    cell: Cell
    advice: MemoryAdvice
    duration: float
    frames: int
    size: tuple[int, int]
    spans: tuple[tuple[float, float], ...]

    @property
    def flops(self) -> int:
        """Of vision, pre-fill and compression, closed form; and of a selector that looks at the video."""
        return sum(meter.flops[stage] for meter in self._meters for stage in VIDEO_STAGES)

    @property
    def seconds(self) -> float:
        """Of the same, measured; of a pre-fill that was kept, when it was computed."""
        return sum(meter.seconds[stage] for meter in self._meters for stage in VIDEO_STAGES)

    @property
    def _meters(self) -> list[Meter]:
        return [self.session.meter, *(one.meter for one in self.session.prepared.values())]

    def ask(self, text: str) -> Reply:
        """Answers one question from the pre-fill.

        Raises:
            ConfigError: a question that cannot be asked, e.g. as it holds the model's video placeholder.
            ContextError: question and answer do not fit the model's context.
            MemoryShortage: memory ran out.
        """
        (reply,) = self.ask_all([text])
        return reply

    def ask_all(self, texts: Sequence[str]) -> Iterator[Reply]:
        """Answers several questions, decoded together; see `ask` and `library.answers`."""
        condition, settings = self.cell.condition, self.settings
        with self.advice.explained(f"answering about {self.session.path}", self.frames):
            yield from answers(
                self.session,
                texts,
                self.cell.selector,
                condition.top_k or 0,
                condition.pinned,
                settings.max_new_tokens,
                condition.taking,
                condition.seed,
                settings.batch,
            )

    def matters(self, text: str) -> tuple[list[int], bool]:
        """Of each chunk the frame to show for a question, and whether the selector says so.

        Of frames that it rates alike the middle one; so of all, where it cannot tell a chunk's frames apart.
        """
        selector, tokens = self.cell.selector, self.session.question(text, 1)
        query = Query(tokens, text, text=text, video=self.session.path)
        rated = self.session.rate_frames(selector.name, selector, query)
        if rated is None:
            frames = (chunk.frames for chunk in self.session.store.prompt.chunks)
            rated = tuple(torch.zeros(stop - start) for start, stop in frames)
            return [_middle_of_highest(values) for values in rated], False
        return [_middle_of_highest(values) for values in rated], True


def _middle_of_highest(values: Tensor) -> int:
    highest = (values == values.max()).nonzero()[:, 0]
    return int(highest[len(highest) // 2])


def open_video(
    model: VideoModel,
    frames: SampledFrames,
    prompt: Prompt,
    levels: Mapping[str, Level],
    cell: Cell,
    settings: Settings,
    advice: MemoryAdvice,
    cache: PrefillCache | None = None,
    watch: Callable[[Chunk, Tensor], None] | None = None,
) -> OwnVideo:
    """Pre-fills a video, with a progress bar.

    Args:
        model: the model.
        frames: of the video.
        prompt: of these frames.
        levels: by name, finest first.
        cell: selector, top_k and pinned chunks.
        settings: checked values.
        advice: for where memory runs out.
        cache: where pre-fills are kept, if they are.
        watch: is shown every chunk's pixels once.

    Raises:
        ConfigError: a method's window, sink or group does not fit a chunk.
        ContextError: the video is longer than the model's context.
        MemoryShortage: memory ran out.
        VideoError: a picture cannot be decoded.
    """
    count, selectors = len(frames.seconds), {cell.selector.name: cell.selector}
    context, positions, seed = settings.context, settings.positions, settings.seed
    torch.manual_seed(seed)
    with advice.explained(f"pre-fill of {frames.path}", count):
        session = open_session(
            model, frames, prompt, levels, context, positions, seed, selectors, cache, watch
        )
    size = (frames.shape[2], frames.shape[1])
    spans = _spans(prompt.chunks, frames.duration)
    return OwnVideo(session, settings, cell, advice, frames.duration, count, size, spans)


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
    top_k, pinned = cell.condition.top_k or 0, cell.condition.pinned
    check_budget(model, prompt, levels, top_k, pinned)
    cached = budget_tokens(model, prompt, levels, top_k, pinned)
    start = prompt.next_position if settings.positions == "keep" else 0
    for text in questions:
        tokens = len(model.question(text).input_ids)
        check_question(model.shape.context_length, cached, start, tokens, settings.max_new_tokens)


def thumbnail_side(frames: int) -> int:
    """Pixels of the longer side of each thumbnail, so that all of a video's fit `THUMBNAILS`."""
    return min(THUMBNAIL, math.isqrt(THUMBNAILS // (3 * frames)))


def thumbnails(pixels: Tensor, side: int) -> Tensor:
    """A chunk's frames, small: `(frames, height, width, 3)`, uint8.

    Args:
        pixels: `(frames, height, width, 3)`, uint8.
        side: pixels of the longer side, at most.
    """
    scale = min(1.0, side / max(pixels.shape[1:3]))
    size = [max(1, round(scale * length)) for length in pixels.shape[1:3]]
    small = [  # one at a time: a chunk of large frames takes much room as floats
        functional.interpolate(frame.permute(2, 0, 1)[None].float(), size, mode="area")[0]
        for frame in pixels
    ]
    return torch.stack([frame.permute(1, 2, 0).round().to(torch.uint8) for frame in small])
