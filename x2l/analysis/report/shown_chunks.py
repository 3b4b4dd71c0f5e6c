"""How a video was cut into chunks, by what its records say, and which frame of each chunk is shown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from x2l.runs.records import Record

Span = tuple[float, float]


@dataclass(frozen=True)
class Film:
    """The frames that a run samples of one video, as `read_frames` finds them.

    Attributes:
        path: the video's file.
        frames: at most so many.
        fps: so many a second.
        sampled: how many there were when it was run; a file that gives others is not the one.
    """

    path: str
    frames: int | None
    fps: float | None
    sampled: int


@dataclass(frozen=True)
class Layout:
    """The frames of one video, and the chunks that they were cut into.

    Attributes:
        duration: of the video, seconds.
        frames_asked: of `Condition.frames`.
        fps: of `Condition.fps`.
        sampled: frames of this video.
        prefilled: how many of the sampled ones a control took, spread over the video; None = all.
        chunk_frames: frames of each chunk but the last.
        chunks: how many.
    """

    duration: float
    frames_asked: int | None
    fps: float | None
    sampled: int
    prefilled: int | None
    chunk_frames: int
    chunks: int

    @classmethod
    def of(cls, record: Record) -> Layout:
        """That of a record."""
        condition, video = record.condition, record.video
        return cls(
            video.duration,
            condition.frames,
            condition.fps,
            video.frames_sampled,
            video.frames_prefilled,
            condition.chunk_frames,
            len(record.selection.assigned),
        )

    @property
    def frames(self) -> int:
        """In all chunks."""
        return self.sampled if self.prefilled is None else self.prefilled

    @property
    def taken(self) -> list[int]:
        """Which of the sampled frames are in chunks, as `evaluation.fewer_frames` takes them."""
        return [int(at) for at in np.linspace(0, self.sampled - 1, self.frames, dtype=int)]


def frame_times(layout: Layout) -> list[float]:
    """About when its frames are, where the file is not at hand: evenly spread."""
    by_rate = layout.fps is not None and abs(layout.duration * layout.fps - layout.sampled) <= 1
    last = max(1, layout.sampled - 1)
    step = 1 / layout.fps if by_rate and layout.fps else layout.duration / last
    return [step * frame for frame in layout.taken]


def chunk_seconds(layout: Layout, times: Sequence[float]) -> list[Span]:
    """(start, end) of every chunk; a frame lasts until the next one, the last one until the video ends.

    Args:
        layout: of the video.
        times: seconds of its frames.
    """
    firsts = [min(at * layout.chunk_frames, len(times) - 1) for at in range(layout.chunks)]
    starts = [times[first] for first in firsts]
    return list(zip(starts, [*starts[1:], max(layout.duration, times[-1])], strict=True))


def shown_frames(layout: Layout, times: Sequence[float], spans: Sequence[Span]) -> list[int]:
    """The frame of each chunk that matters: one in which the answer lies, else the middle one.

    Args:
        layout: of the video.
        times: seconds of its frames.
        spans: seconds that the answer rests on.

    Returns:
        Of each chunk the number of a frame of the layout.
    """
    shown = []
    for chunk in range(layout.chunks):
        first = min(chunk * layout.chunk_frames, len(times) - 1)
        members = range(first, min(first + layout.chunk_frames, len(times)))
        inside = [m for m in members if any(start <= times[m] < end for start, end in spans)]
        members_shown = inside or members
        shown.append(members_shown[len(members_shown) // 2])
    return shown
