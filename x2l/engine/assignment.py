"""From relevance to a level for every chunk: by rank, or by a budget of bytes.

Two levels and a number of chunks are the paper's; `selection.py` says which chunks these are. More levels make a
ladder: the most relevant chunks finest, the next ones at the level between, the rest most compact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.top_k import GT, TASK, check_selection, select

_LADDER = re.compile(r"\d+(\+\d+)+")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)(kB|MB|GB)")
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


def ladder(top_k: int | str) -> tuple[int, ...] | None:
    """The numbers of a ladder such as `2+4`; None where it is none."""
    if isinstance(top_k, str) and _LADDER.fullmatch(top_k):
        return tuple(map(int, top_k.split("+")))
    return None


def is_budget(top_k: int | str | None) -> TypeGuard[str]:
    """Whether it is a budget of bytes: `12%` or `64MB`."""
    return isinstance(top_k, str) and bool(_SHARE.fullmatch(top_k) or _BYTES.fullmatch(top_k))


def budget_of(top_k: str, full: int) -> int:
    """The bytes that a budget allows.

    Args:
        top_k: `12%` or `64MB`.
        full: bytes of the video's uncompressed cache.
    """
    if share := _SHARE.fullmatch(top_k):
        return math.floor(full * float(share[1]) / 100)
    found = _BYTES.fullmatch(top_k)
    assert found is not None
    return math.floor(float(found[1]) * _UNITS[found[2]])


def check_top_k(
    top_k: int | str,
    pinned: Sequence[str],
    levels: Sequence[str] = ("low", "high"),
    chunks: int | None = None,
    field: str = "top_k",
) -> None:
    """Checks settings before anything runs.

    Args:
        top_k: a number of chunks, `gt`, `task`, a ladder or a budget.
        pinned: names of chunks.
        levels: names, finest first.
        chunks: how many a video has, where that is known.
        field: what errors call `top_k`.

    Raises:
        ValueError: none of these; a ladder of another number of levels; more chunks than there are; a budget of 0 or
            of more than the whole cache; an unknown pinned chunk.
    """
    if is_budget(top_k):
        check_selection(0, pinned)
        if not 0 < float(top_k.rstrip("%kMGB")) <= (100 if "%" in top_k else math.inf):
            raise ValueError(f"{field}={top_k}: must be above 0, and at most 100%")
        return
    if isinstance(top_k, str) and top_k not in (GT, TASK) and ladder(top_k) is None:
        raise ValueError(
            f"{field}={top_k!r}: must be a number of chunks >= 0, gt (as many as the question needs), task (what "
            "selection.top_k_by_task says), a ladder such as 2+4 (chunks at each level but the most compact one, "
            "finest first), or a budget such as 12% (of the uncompressed cache) or 64MB (kB, MB, GB)"
        )
    counts = ladder(top_k)
    if counts is None:
        check_selection(top_k, pinned, chunks, field)
        return
    if len(counts) != len(levels) - 1:
        raise ValueError(_wrong_length(field, counts, levels))
    if chunks is not None and sum(counts) > chunks:
        raise ValueError(
            f"{field}={top_k}: the video has only {chunks} chunks; use smaller numbers, more video.frames, or a "
            "smaller prefill.chunk_frames"
        )
    check_selection(0, pinned)


def counts_of(top_k: int | str, levels: Sequence[str]) -> tuple[int, ...]:
    """A number of chunks, or a ladder, as one count for each level but the last: 2 is (2, 0) where there are three."""
    return ladder(top_k) or (int(top_k), *([0] * (len(levels) - 2)))


def _wrong_length(field: str, counts: Sequence[int], levels: Sequence[str]) -> str:
    return (
        f"{field}={'+'.join(map(str, counts))}: must have a number for each level but the most compact one, finest "
        f"first; levels are {', '.join(levels)}, so give {len(levels) - 1}"
    )


def assigned(
    relevance: Tensor,
    top_k: int | str,
    store: KVStore,
    full: int,
    levels: Sequence[str],
    pinned: Sequence[str] = (),
) -> tuple[str, ...]:
    """A level for every chunk of a pre-filled video.

    Args:
        relevance: `(chunks,)`, as in `selection.select`.
        top_k: a number of chunks, a ladder or a budget.
        store: the video's KVs.
        full: bytes of its uncompressed cache.
        levels: names, finest first.
        pinned: `first`, `last`.

    Raises:
        ValueError: see `by_rank` and `by_bytes`.
    """
    if not is_budget(top_k):
        return by_rank(relevance, counts_of(top_k, levels), levels, pinned)
    sizes = {level: store.nbytes(level) for level in levels}
    return by_bytes(relevance, sizes, budget_of(top_k, full) - store.prefix.nbytes, levels, pinned)


def by_rank(
    relevance: Tensor, counts: Sequence[int], levels: Sequence[str], pinned: Sequence[str] = ()
) -> tuple[str, ...]:
    """A level for every chunk by the rank of its relevance.

    Chunks of relevance +inf and pinned ones are finest, on top of the first count; those of -inf most compact.

    Args:
        relevance: `(chunks,)`, as in `selection.select`.
        counts: how many chunks each level but the last takes; where chunks run out, later levels have fewer.
        levels: names, finest first.
        pinned: `first`, `last`.

    Raises:
        ValueError: not one count for each level but the last, or what `select` refuses.
    """
    if len(counts) != len(levels) - 1:
        raise ValueError(_wrong_length("top_k", counts, levels))
    chosen = [levels[-1]] * len(relevance)
    most, taken = 0, set[int]()
    for level, count in zip(levels, counts, strict=False):
        most += count
        for index in select(relevance, min(most, len(relevance)), pinned):
            if index not in taken:
                chosen[index] = level
        taken = {index for index, given in enumerate(chosen) if given != levels[-1]}
    return tuple(chosen)


def by_bytes(
    relevance: Tensor,
    nbytes: Mapping[str, Sequence[int]],
    budget: int,
    levels: Sequence[str],
    pinned: Sequence[str] = (),
) -> tuple[str, ...]:
    """A level for every chunk so that their bytes stay within a budget: greedily by relevance for a byte.

    All chunks start most compact. Making chunk i finer by one level is worth w_i log(bytes after / bytes before), w_i
    being its relevance on a scale from 0 (the least of the video) to 1 (the most): each doubling of a chunk's KVs is
    worth the same, so steps of one chunk are worth less and less for a byte, and the best step that still fits is
    taken until none does. With two levels and chunks of one size that is the order of relevance; a short last chunk
    costs less and may come before a more relevant one. Own rule: the paper fixes k.

    Args:
        relevance: `(chunks,)`; +inf = before all others, -inf = never.
        nbytes: of every chunk at every level.
        budget: bytes of all chunks together.
        levels: names, finest first.
        pinned: `first`, `last`: finest, before all others.

    Raises:
        ValueError: the budget is below the bytes of pinned chunks finest and all others most compact.
    """
    at = [len(levels) - 1] * len(relevance)
    for index in select(relevance.new_full(relevance.shape, -math.inf), 0, pinned):
        at[index] = 0
    left = budget - sum(nbytes[levels[level]][index] for index, level in enumerate(at))
    if left < 0:
        raise ValueError(
            f"budget of {budget:,} bytes: must be at least {budget - left:,}, what all chunks take at {levels[-1]}"
            f"{' with pinned ones at ' + levels[0] if pinned else ''}; raise it, or the ratio of {levels[-1]}"
        )
    steps, going = _steps(relevance, nbytes, levels), True
    while going:  # once, unless a codec makes a step dearer for a byte than the one after it
        going = False
        for index, level in steps:
            cost = nbytes[levels[level]][index] - nbytes[levels[level + 1]][index]
            if at[index] == level + 1 and cost <= left:
                at[index], left, going = level, left - cost, True
    return tuple(levels[level] for level in at)


def _steps(
    relevance: Tensor, nbytes: Mapping[str, Sequence[int]], levels: Sequence[str]
) -> list[tuple[int, int]]:
    """Every (chunk, level that it may be made), the one worth most for a byte first."""
    scores = relevance.tolist()
    rated = [score for score in scores if math.isfinite(score)]
    least, most = (min(rated), max(rated)) if rated else (0.0, 0.0)
    worth: dict[tuple[int, int], tuple[bool, float]] = {}
    for index, score in enumerate(scores):
        if score == -math.inf:
            continue
        weight = 1.0 if most == least or score == math.inf else (score - least) / (most - least)
        for level in reversed(range(len(levels) - 1)):
            after, before = (nbytes[levels[at]][index] for at in (level, level + 1))
            density = (
                weight * math.log(after / before) / (after - before) if after > before else math.inf
            )
            worth[index, level] = score == math.inf, density
    return sorted(worth, key=lambda step: (*(-value for value in worth[step]), -step[1], step[0]))
