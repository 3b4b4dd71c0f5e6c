"""A video's chunks as they are shown to the model and to whoever else looks at pictures: decoded one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from x2l.models.interface import VideoModel
from x2l.models.prompt import Chunk, Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class ShownChunk:
    """One chunk.

    Attributes:
        chunk: of the prompt.
        pixels: of its frames, `(frames, height, width, 3)`, uint8.
        inputs: what the vision tower takes for it.
    """

    chunk: Chunk
    pixels: Tensor
    inputs: Mapping[str, Any]


def shown_chunks(model: VideoModel, prompt: Prompt) -> Iterator[ShownChunk]:
    """Decodes and prepares chunk by chunk; no more than one of them is in memory.

    Raises:
        VideoError: a picture cannot be decoded.
    """
    blocks = prompt.visual["frames"].blocks(map(model.looked_at, prompt.chunks))
    for chunk, pixels in zip(prompt.chunks, blocks, strict=True):
        inputs = model.visual_inputs(prompt, chunk, pixels)
        first, after = chunk.frames
        yield ShownChunk(chunk, pixels[len(pixels) - (after - first) :], inputs)


def chunk_pixels(prompt: Prompt) -> Iterator[tuple[Chunk, Tensor]]:
    """Every chunk and the pixels of its frames, decoded one after another."""
    blocks = prompt.visual["frames"].blocks(chunk.frames for chunk in prompt.chunks)
    return zip(prompt.chunks, blocks, strict=True)


class Waited(Iterator[T], Generic[T]):
    """An iterator that knows how long was waited for its items. Final.

    Attributes:
        seconds: so far.
    """

    def __init__(self, items: Iterator[T]) -> None:
        """Over `items`."""
        self._items, self.seconds = items, 0.0

    def __next__(self) -> T:
        """The next item."""
        start = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - start
