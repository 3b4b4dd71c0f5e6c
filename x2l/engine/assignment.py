"""From relevance to a level for every chunk: by rank, or by a budget of bytes. One rule for every selector.

Two levels and a number of chunks are the paper's. More levels make a ladder: the most relevant chunks finest, the next
ones at the level between, the rest coarsest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.taking import TakingRule, Top, left_out
from x2l.engine.top_k import budget_of, check_ladder, check_top_k, counts_of, is_budget


def assigned(
    relevance: Tensor,
    top_k: int | str,
    store: KVStore,
    full: int,
    pinned: Sequence[str] = (),
    gt: Sequence[int] | None = None,
    taking: TakingRule | None = None,
    key: str = "",
) -> tuple[str, ...]:
    """A level for every chunk of a pre-filled video.

    Args:
        relevance: `(chunks,)`, as in `select`.
        top_k: a number of chunks, `gt`, a ladder or a budget.
        store: the video's KVs, which name the levels.
        full: bytes of its uncompressed cache.
        pinned: `first`, `last`.
        gt: ground-truth chunks; only `gt` needs them.
        taking: which chunks are taken; None = the most relevant. Those that it leaves are coarsest. Of a ladder it
            takes as many as all its levels hold, of a budget as many as the most relevant ones would be.
        key: of the question, for rules that draw.

    Raises:
        ValueError: `gt` without ground-truth chunks; see also `by_rank` and `by_bytes`.
    """
    levels = tuple(store.levels)
    if not is_budget(top_k):
        counts = counts_of(top_k, levels, gt)
        return by_rank(_left(relevance, taking, sum(counts), pinned, key), counts, levels, pinned)
    sizes = {level: store.nbytes(level) for level in levels}
    budget = budget_of(top_k, full) - store.prefix.nbytes
    assignment = by_bytes(relevance, sizes, budget, levels, pinned)
    always = select(relevance, 0, pinned)
    count = sum(level != levels[-1] for i, level in enumerate(assignment) if i not in always)
    left = _left(relevance, taking, count, pinned, key)
    return assignment if left is relevance else by_bytes(left, sizes, budget, levels, pinned)


def _left(
    relevance: Tensor, taking: TakingRule | None, count: int, pinned: Sequence[str], key: str
) -> Tensor:
    """The relevance, -inf for chunks that a rule does not take."""
    if taking is None or isinstance(taking, Top):
        return relevance
    always = select(relevance.new_full(relevance.shape, -math.inf), 0, pinned)
    left = relevance.clone()
    left[left_out(relevance.tolist(), taking, count, always, key)] = -math.inf
    return left


def select(relevance: Tensor, top_k: int, pinned: Sequence[str] = ()) -> tuple[int, ...]:
    """The chunks to re-load, in time order.

    Args:
        relevance: `(chunks,)`; +inf = always re-loaded, -inf = never (unless pinned). Ties go to the earlier chunk.
        top_k: how many of the rest.
        pinned: `first`, `last`: always re-loaded, on top of top_k (the official code pins both).

    Raises:
        ValueError: more than there are, a negative number, an unknown pinned chunk, or NaN in the relevance.
    """
    chunks = len(relevance)
    check_top_k(top_k, pinned, chunks=chunks)
    if relevance.isnan().any():
        raise ValueError(f"relevance holds NaN: {relevance.tolist()}")
    scores = relevance.tolist()
    selected = {index for index, score in enumerate(scores) if score == math.inf}
    selected |= {{"first": 0, "last": chunks - 1}[name] for name in pinned}
    ranked = [index for index in _ranked(scores) if index not in selected]
    return tuple(sorted(selected | set(ranked[:top_k])))


def select_bytes(relevance: Tensor, sizes: Sequence[int], budget: int) -> tuple[int, ...]:
    """The chunks to re-load, in time order, so that their bytes come as near to a budget as whole chunks allow.

    Chunks are tried in order of relevance; each is taken if that brings the sum nearer to the budget.

    Args:
        relevance: `(chunks,)`; -inf = never.
        sizes: bytes of each chunk's L-KVs.
        budget: bytes.
    """
    taken: list[int] = []
    left = budget
    for index in _ranked(relevance.tolist()):
        if abs(left - sizes[index]) < abs(left):
            taken.append(index)
            left -= sizes[index]
    return tuple(sorted(taken))


def _ranked(scores: Sequence[float]) -> list[int]:
    """Chunks that may be taken, most relevant first; ties go to the earlier one."""
    allowed = [index for index, score in enumerate(scores) if score != float("-inf")]
    return sorted(allowed, key=lambda index: (-scores[index], index))


def by_rank(
    relevance: Tensor, counts: Sequence[int], levels: Sequence[str], pinned: Sequence[str] = ()
) -> tuple[str, ...]:
    """A level for every chunk by the rank of its relevance.

    Chunks of relevance +inf and pinned ones are finest, on top of the first count; those of -inf coarsest.

    Args:
        relevance: `(chunks,)`, as in `select`.
        counts: how many chunks each level but the last takes; where chunks run out, later levels have fewer.
        levels: names, finest first.
        pinned: `first`, `last`.

    Raises:
        ValueError: not one count for each level but the last, or what `select` refuses.
    """
    check_ladder(counts, levels)
    assignment = [levels[-1]] * len(relevance)
    total, finer = 0, set[int]()
    for level, count in zip(levels, counts, strict=False):
        total += count
        selected = set(select(relevance, min(total, len(relevance)), pinned))
        for index in selected - finer:
            assignment[index] = level
        finer |= selected
    return tuple(assignment)


def by_bytes(
    relevance: Tensor,
    nbytes: Mapping[str, Sequence[int]],
    budget: int,
    levels: Sequence[str],
    pinned: Sequence[str] = (),
) -> tuple[str, ...]:
    """A level for every chunk so that their bytes stay within a budget: greedily by relevance for a byte.

    All chunks start coarsest. Making chunk i finer by one level is worth w_i log(bytes after / bytes before), w_i
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
        ValueError: the budget is below the bytes of pinned chunks finest and all others coarsest.
    """
    ranks = [len(levels) - 1] * len(relevance)  # of each chunk's level
    for index in select(relevance.new_full(relevance.shape, -math.inf), 0, pinned):
        ranks[index] = 0
    left = budget - sum(nbytes[levels[rank]][index] for index, rank in enumerate(ranks))
    if left < 0:
        raise ValueError(
            f"budget of {budget:,} bytes: must be at least {budget - left:,}, what all chunks take at {levels[-1]}"
            f"{' with pinned ones at ' + levels[0] if pinned else ''}; raise it, or the ratio of {levels[-1]}"
        )
    steps, going = _steps(relevance, nbytes, levels), True
    while going:  # once, unless a codec makes a step dearer for a byte than the one after it
        going = False
        for index, rank in steps:
            cost = nbytes[levels[rank]][index] - nbytes[levels[rank + 1]][index]
            if ranks[index] == rank + 1 and cost <= left:
                ranks[index], left, going = rank, left - cost, True
    return tuple(levels[rank] for rank in ranks)


def _steps(
    relevance: Tensor, nbytes: Mapping[str, Sequence[int]], levels: Sequence[str]
) -> list[tuple[int, int]]:
    """Every (chunk, rank of the level that it may be made), the one worth most for a byte first."""
    scores = relevance.tolist()
    finite = [score for score in scores if math.isfinite(score)]
    least, most = (min(finite), max(finite)) if finite else (0.0, 0.0)
    worth: dict[tuple[int, int], tuple[bool, float]] = {}
    for index, score in enumerate(scores):
        if score == -math.inf:
            continue
        weight = 1.0 if most == least or score == math.inf else (score - least) / (most - least)
        for rank in reversed(range(len(levels) - 1)):
            after, before = nbytes[levels[rank]][index], nbytes[levels[rank + 1]][index]
            # A chunk that was dropped took nothing: as one that took a byte.
            worth_of = math.log(after / max(before, 1)) if after > before else 0.0
            density = weight * worth_of / (after - before) if after > before else math.inf
            worth[index, rank] = score == math.inf, density
    return sorted(worth, key=lambda step: (*(-value for value in worth[step]), -step[1], step[0]))
