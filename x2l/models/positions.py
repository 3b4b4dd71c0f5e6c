"""Rotary positions: how a video's tokens are placed, and how gaps are closed. Pure functions.

Positions are always explicit. Left to itself a model infers them from the cache's length or from state of an earlier
call, and both are silently wrong once a cache is chunk-fed or shortened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.models.prompt import Chunk, Prompt


def mrope_video(base: int, grid: tuple[int, int, int], interval: float) -> Tensor:
    """M-RoPE positions of a video's visual tokens, `(3, t*h*w)`.

    Args:
        base: position of the first visual token.
        grid: (time steps, rows, columns) of visual tokens.
        interval: temporal positions from one time step to the next; Qwen2.5-VL: tokens_per_second * seconds a step,
            truncated after multiplying with the step's index as in its published `get_rope_index`; Qwen2-VL: 1.
    """
    steps, rows, columns = grid
    time = (torch.arange(steps) * interval).long()
    axes = torch.meshgrid(time, torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack(axes).reshape(3, -1) + base


@dataclass(frozen=True)
class Placement:
    """Where the tokens after a video go.

    Attributes:
        next_position: first position of the question.
        video_end: one past the largest temporal position in the video.
    """

    next_position: int
    video_end: int


def after_video(base: int, grid: tuple[int, int, int], last_time: int, rule: str) -> Placement:
    """Placement of the text after a video at `base` whose last temporal position is `last_time`.

    `reference`: one past every position in the video, as transformers 4.x did and the published Qwen2-VL and
    Qwen2.5-VL were trained with. `hf`: transformers 5.x, which adds max(rows, columns) only, so that the question
    overlaps the video in time.
    """
    beyond = base + max(grid[1], grid[2])
    return Placement(max(last_time + 1, beyond) if rule == "reference" else beyond, last_time + 1)


@dataclass(frozen=True)
class Cursor:
    """Where the next chunk starts in a `compact` cache, on the temporal (or only) axis."""

    position: float


def extent(prompt: Prompt, chunk: Chunk) -> int:
    """Temporal positions from a chunk's first token to where the next chunk starts."""
    following = chunk.index + 1
    after = prompt.next_position if prompt.space_follows_time else prompt.video_end
    end = int(prompt.chunks[following].positions[0, 0]) if following < len(prompt.chunks) else after
    return end - int(chunk.positions[0, 0])


def first_cursor(prompt: Prompt) -> Cursor:
    """The cursor before the first chunk."""
    return Cursor(float(prompt.chunks[0].positions[0, 0]))


def shifted(prompt: Prompt, chunk: Chunk, cursor: Cursor) -> Tensor:
    """Positions `(A, T)` of a whole, uncompressed chunk that starts at the cursor: one shift along time."""
    positions = chunk.positions.clone()
    moved = math.ceil(cursor.position) - int(positions[0, 0])
    positions[: None if prompt.space_follows_time else 1] += moved
    return positions


def compacted(
    prompt: Prompt, chunk: Chunk, positions: Tensor, cursor: Cursor
) -> tuple[Tensor, Cursor]:
    """Closes the gaps that compression left: positions `(A, h, n)` of kept KVs -> (new positions, next cursor).

    One axis: kept KVs are numbered without gaps, as in the official code. Three axes (M-RoPE): a run of equal numbers
    on all axes would be a sequence that the model never saw, even with nothing dropped. So time is scaled instead: a
    chunk of which a fraction f was kept takes f of its temporal extent; rows and columns stay what they were from where
    they count (the start of the video, or their own time). In the latter case the next chunk starts beyond them on
    every axis, as every block of the model's own input does. With nothing dropped every position stays where it was.
    """
    kept = positions.shape[2]
    if positions.shape[0] == 1:
        numbers = cursor.position + torch.arange(
            kept, dtype=positions.dtype, device=positions.device
        )
        return numbers.expand_as(positions), Cursor(cursor.position + kept)
    fraction = kept / chunk.tokens
    first = float(chunk.positions[0, 0])
    moved = positions.clone()
    moved[0] = cursor.position + (positions[0] - first) * fraction
    after = cursor.position + extent(prompt, chunk) * fraction
    if prompt.space_follows_time and kept:
        moved[1:] += moved[0] - positions[0]
        after = max(after, float(moved.max()) + 1)
    return moved, Cursor(after)


def furthest(cursors: Iterable[Cursor]) -> Cursor:
    """The cursor behind a chunk of which every layer kept other KVs."""
    return max(cursors, key=lambda cursor: cursor.position)


def compact_end(prompt: Prompt, kept: Sequence[int], inserted: Sequence[int]) -> int:
    """One past the last position of a pre-fill with compacted context, or a little beyond it.

    Each chunk is run whole before it is compressed, from where the compressed ones before it end.

    Args:
        prompt: the prompt.
        kept: KVs of each chunk that stay in the context, text included.
        inserted: summary tokens that each chunk is run with.
    """
    axes, cursor, end = prompt.positions.shape[0], first_cursor(prompt).position, 0
    for chunk, count, more in zip(prompt.chunks, kept, inserted, strict=True):
        reach = _reach(prompt, chunk) + more
        end = max(end, math.ceil(cursor) + reach)
        if axes == 1:
            cursor += count
        else:
            least = reach if prompt.space_follows_time else 0
            cursor += max(extent(prompt, chunk) * count / chunk.tokens, least)
    fixed = axes == 3 and not prompt.space_follows_time  # rows and columns stay where they are
    return max(end, math.ceil(cursor), int(prompt.positions[1:].max()) + 1 if fixed else 0)


def _reach(prompt: Prompt, chunk: Chunk) -> int:
    """Positions that an uncompressed chunk takes on the axis where it takes most."""
    if prompt.positions.shape[0] == 1:
        return chunk.tokens
    if prompt.space_follows_time:
        return int(chunk.positions.max()) + 1 - int(chunk.positions[0, 0])
    return extent(prompt, chunk)


def placement(prompt: Prompt, cursor: Cursor) -> Placement:
    """Where the question goes after a `compact` cache that ends at the cursor."""
    end = math.ceil(cursor.position)
    if prompt.positions.shape[0] == 1 or prompt.space_follows_time:
        return Placement(end, end)
    if (
        prompt.next_position < prompt.video_end
    ):  # the `hf` rule: the question's place does not depend on time
        return Placement(prompt.next_position, end)
    space = int(prompt.positions[1:].max()) + 1
    return Placement(max(end, space), end)
