"""Out of memory, said in one line with what to change."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_MEMORY = Path("/proc/meminfo")
# How torch, its allocators and its libraries word it where they do not raise OutOfMemoryError.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


class MemoryShortage(RuntimeError):
    """What was asked for does not fit; the message says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on a device; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and _MEMORY.exists():
        line = next(row for row in _MEMORY.read_text().splitlines() if row.startswith("MemAvail"))
        return int(line.split()[1]) * 1024
    return None


@contextmanager
def memory_explained(
    doing: str, frames: int | None, chunk_frames: int, dtype: str, patch: int = 1
) -> Iterator[None]:
    """Inside, running out of memory is a `MemoryShortage` of one line.

    Args:
        doing: for the message, e.g. `pre-fill of film.mp4`.
        frames: of the video; None = not known yet, as it is still being read.
        chunk_frames: of a chunk.
        dtype: of the model.
        patch: frames that make one time step; chunks are multiples of it.

    Raises:
        MemoryShortage: memory ran out; what was allocated for `doing` has been let go.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryShortage) or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that did not fit
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise MemoryShortage(_line(doing, frames, chunk_frames, dtype, patch)) from None


def _line(doing: str, frames: int | None, chunk_frames: int, dtype: str, patch: int = 1) -> str:
    if frames is None:  # only frames are in memory then
        return f"out of memory: {doing}; use fewer frames (video.frames=, video.fps=)"
    remedies = []
    if frames > patch:
        remedies.append(f"fewer frames (video.frames={max(patch, frames // 2)})")
    if chunk_frames > patch:
        half = max(patch, chunk_frames // 2 // patch * patch)
        remedies.append(f"smaller chunks (prefill.chunk_frames={half})")
    if dtype not in ("bfloat16", "float16"):
        remedies.append("model.dtype=bfloat16")
    remedies.append("a level's KVs as context (prefill.context=low)")
    told = " or ".join([", ".join(remedies[:-1]), remedies[-1]] if remedies[:-1] else remedies)
    return f"out of memory: {doing} ({frames} frames, {chunk_frames} a chunk, {dtype}); use {told}"
