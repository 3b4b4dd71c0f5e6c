"""Sampled frames of one video: all of them in memory, or given span by span. Knows nothing of files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

Spans = Iterable[tuple[int, int]]


class SampledFrames(ABC):
    """Abstract: what was sampled of a video, and a way to see the pictures in time order.

    Attributes:
        seconds: (frames,), float64, the file's own timestamp of each sampled frame, counted from the file's first
            frame.
        fps: frames per second of the file (mean, where the rate varies).
        duration: seconds from the first frame's start to the last frame's end.
        path: the file.
        reader: what decodes the file, one of `video.READERS`.
    """

    seconds: Tensor
    fps: float
    duration: float
    path: str
    reader: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, 3)."""

    @abstractmethod
    def blocks(self, spans: Spans) -> Iterator[Tensor]:
        """Pictures of one span after another, each (frames, height, width, 3), uint8, RGB.

        Args:
            spans: (first, one past last) of the sampled frames. They may overlap; their starts and ends never fall.
        """

    @abstractmethod
    def taken(self, at: Tensor) -> SampledFrames:
        """Those frames of these only, by rising index `(n,)`."""

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures together."""
        frames, height, width, channels = self.shape
        return frames * height * width * channels

    def loaded(self) -> Frames:
        """All of them in memory at once."""
        (pixels,) = self.blocks([(0, self.shape[0])])
        return Frames(pixels, self.seconds, self.fps, self.duration, self.path, self.reader)


@dataclass(frozen=True)
class Frames(SampledFrames):
    """Sampled frames in memory.

    Attributes:
        pixels: (frames, height, width, 3), uint8, RGB.
        seconds: as in `SampledFrames`, like all that follow.
    """

    pixels: Tensor
    seconds: Tensor
    fps: float
    duration: float
    path: str
    reader: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, 3)."""
        frames, height, width, channels = self.pixels.shape
        return frames, height, width, channels

    def blocks(self, spans: Spans) -> Iterator[Tensor]:
        """Views of `pixels`."""
        for first, after in spans:
            yield self.pixels[first:after]

    def taken(self, at: Tensor) -> Frames:
        """Copies of some."""
        return replace(self, pixels=self.pixels[at], seconds=self.seconds[at])

    def loaded(self) -> Frames:
        """Itself."""
        return self


def held(frames: SampledFrames, most: int) -> SampledFrames:
    """The same frames, in memory where they take at most `most` bytes: for what looks at them more than once."""
    return frames.loaded() if frames.nbytes <= most else frames
