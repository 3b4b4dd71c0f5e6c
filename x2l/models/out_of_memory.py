"""Out of memory, said in one line with what to change."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from x2l import UserError

if TYPE_CHECKING:
    from x2l.models.interface import VideoModel

# How torch, its allocators and its libraries word it where they do not raise OutOfMemoryError.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


_ASKED = re.compile(r"allocate:? ([\d.]+) ?(bytes|[KMGTPE]iB)")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STAGE = "stage: "
HALF = ("bfloat16", "float16")


class MemoryShortage(UserError, RuntimeError):
    """What was asked for does not fit; the message says what to change.

    Attributes:
        stage: in which memory ran out; None where that is not known.
        requested_bytes: that could not be given; None where the allocator does not say.
    """

    def __init__(
        self, message: str, stage: str | None = None, requested_bytes: int | None = None
    ) -> None:
        """Of one line."""
        super().__init__(message)
        self.stage, self.requested_bytes = stage, requested_bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def requested_bytes(error: BaseException) -> int | None:
    """The bytes that an allocator says it was asked for in vain; None where it does not."""
    if (size := _ASKED.search(str(error))) is None:
        return None
    return int(float(size[1]) * 1024 ** _UNITS.index(size[2]))


@contextmanager
def naming_stage(stage: str) -> Iterator[None]:
    """Inside, an exception that means that memory ran out is given a note of the stage (the innermost)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error) and _stage_of(error) is None:
            error.add_note(f"{_STAGE}{stage}")
        raise


def _stage_of(error: BaseException) -> str | None:
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_STAGE)]
    return notes[0].removeprefix(_STAGE) if notes else None


def let_go(error: BaseException) -> None:
    """Frees what did not fit, which the frames of an error hold."""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on a device; None where that cannot be told."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available if device.type == "cpu" else None


@dataclass(frozen=True)
class MemoryAdvice:
    """What to change where memory runs out. Made once, with the model, so that what is advised can be followed.

    Attributes:
        temporal_patch: frames that make one time step; chunks are multiples of it.
        chunk_frames: of a chunk.
        dtype: of the model.
        level: the finest, whose KVs may serve as context.
    """

    temporal_patch: int
    chunk_frames: int
    dtype: str
    level: str

    @classmethod
    def of(cls, model: VideoModel, chunk_frames: int, level: str) -> MemoryAdvice:
        """For a model that is loaded."""
        dtype = str(model.dtype).removeprefix("torch.")
        return cls(model.temporal_patch, chunk_frames, dtype, level)

    @contextmanager
    def explained(self, doing: str, frames: int) -> Iterator[None]:
        """Inside, running out of memory is a `MemoryShortage` of one line.

        Args:
            doing: for the message, e.g. `pre-fill of film.mp4`.
            frames: of the video.

        Raises:
            MemoryShortage: memory ran out; what was allocated for `doing` has been let go.
        """
        with _explained(self._line(doing, frames)):
            yield

    def _line(self, doing: str, frames: int) -> str:
        patch, remedies = self.temporal_patch, []
        if frames > patch:
            remedies.append(f"fewer frames (video.frames={max(patch, frames // 2)})")
        if self.chunk_frames > patch:
            half = max(patch, self.chunk_frames // 2 // patch * patch)
            remedies.append(f"smaller chunks (prefill.chunk_frames={half})")
        if self.dtype not in HALF:
            remedies.append("model.dtype=bfloat16")
        remedies.append(f"a level's KVs as context (prefill.context={self.level})")
        remedy = " or ".join([", ".join(remedies[:-1]), remedies[-1]] if remedies[1:] else remedies)
        chunks = f"{self.chunk_frames} a chunk"
        return f"out of memory: {doing} ({frames} frames, {chunks}, {self.dtype}); use {remedy}"


@contextmanager
def reading_explained(path: str) -> Iterator[None]:
    """The same while a video is read, when only frames are in memory; the stage is `read`."""
    line = f"out of memory: reading {path}; use fewer frames (video.frames=, video.fps=)"
    with _explained(line), naming_stage("read"):
        yield


@contextmanager
def loading_explained(dtype: str) -> Iterator[None]:
    """The same while a model is loaded; the stage is `load`."""
    half = "" if dtype in HALF else "model.dtype=bfloat16, "
    remedy = f"{half}a smaller model or several GPUs (model.device=null model.device_map=auto)"
    with (
        _explained(f"out of memory: loading the model, {dtype}; use {remedy}"),
        naming_stage("load"),
    ):
        yield


@contextmanager
def _explained(line: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryShortage) or not is_out_of_memory(error):
            raise
        let_go(error)
        raise MemoryShortage(line, _stage_of(error), requested_bytes(error)) from None
