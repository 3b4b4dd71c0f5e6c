"""Importance of each KV of a chunk from keys, values and places alone, for pruning. Pure functions; higher = keep.

Every scorer: `(LayerKV, Observation, ...) -> (H, T)` float. What needs queries is in attention_scorers.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from x2l.compressors.base import Observation
from x2l.kv import LayerKV


def exact(x: Tensor) -> Tensor:
    """In fp32 at least: scores of half-precision KVs would tie."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rotated_keys(kv: LayerKV, obs: Observation) -> Tensor:
    """Keys `(H, T, D)` with RoPE, as attention sees them and as methods that read a stock cache see them."""
    return exact(obs.rope.apply_rope(kv.keys, obs.positions)[0])


def generator(obs: Observation) -> torch.Generator:
    """Random numbers by video, chunk and layer: the same run gives the same KVs, in any order of videos."""
    # hash() of ints is not randomised
    seed = hash((obs.video_seed, obs.chunk, obs.layer)) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator().manual_seed(seed)


def random(kv: LayerKV, obs: Observation) -> Tensor:
    """Independent uniform draws for every head and layer: the floor that any method must beat."""
    draws = torch.rand(kv.keys.shape[1], kv.tokens, generator=generator(obs))
    return draws.to(kv.keys.device)


def streaming(kv: LayerKV, sink: int, recent: int) -> Tensor:
    """1 for the first `sink` and the last `recent` tokens, 0 between (StreamingLLM, arXiv 2309.17453, section 3.2)."""
    score = torch.zeros(kv.keys.shape[1], kv.tokens, device=kv.keys.device)
    score[:, :sink] = 1
    score[:, kv.tokens - recent :] = 1
    return score


def key_norm(kv: LayerKV, obs: Observation) -> Tensor:
    """Minus the L2 norm of each key: keys of small norm draw attention (Devoto et al., arXiv 2406.11430, eq. 3).

    RoPE does not change the norm, so un-rotated keys give the published score.
    """
    return -exact(kv.keys[0]).norm(dim=-1)


def value_norm(kv: LayerKV, obs: Observation) -> Tensor:
    """The L2 norm of each value, VaN of InfiniPot-V (arXiv 2506.15745).

    The paper smooths it over neighbouring patches in early layers; its published code does not unless told to.
    """
    return exact(kv.values[0]).norm(dim=-1)


def key_diff(kv: LayerKV, obs: Observation) -> Tensor:
    """Minus the cosine of each key and the mean direction of all keys (KeyDiff, arXiv 2504.15364).

    s_i = -cos(k_i, mean_j k_j / |k_j|), on rotated keys, as in the paper's cache. The paper evicts block by block,
    here a chunk is the block.
    """
    keys = rotated_keys(kv, obs)
    return -cosine_similarity(keys, normalize(keys, dim=-1).mean(dim=1, keepdim=True), dim=-1)


def partition(tokens: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cuts tokens into stretches of `size`; what is left over at the end joins the last one.

    Returns:
        `(T,)` stretch of each token, and `(stretches,)` sizes.
    """
    count = max(1, tokens // size)
    owner = (torch.arange(tokens, device=device) // size).clamp_max(count - 1)
    sizes = torch.full((count,), size, device=device)
    sizes[-1] = tokens - (count - 1) * size
    return owner, sizes


def cur(kv: LayerKV, obs: Observation, window: int) -> Tensor:
    """Product of approximate leverage scores of K and V (CurDKV, arXiv 2509.15038).

    |k_i|^2 |v_i|^2, each divided by its mean over the `window` tokens around (the form that kvpress' CURPress has
    without its random projection, which only approximates these norms).
    """
    owner, sizes = partition(kv.tokens, window, kv.keys.device)

    def leverage(x: Tensor) -> Tensor:
        squares = exact(x[0]).square().sum(dim=-1)  # (H, T)
        sums = squares.new_zeros(len(squares), len(sizes)).index_add_(1, owner, squares)
        return squares / (sums / sizes).clamp_min(1e-20)[:, owner]

    return leverage(kv.keys) * leverage(kv.values)


def lag_kv(kv: LayerKV, obs: Observation, lag: int) -> Tensor:
    """Rank of each token in its partition by lag-relative information of K and V (LagKV, arXiv 2504.04704).

    Partitions hold `lag` tokens. In each channel x becomes (x - min) / (max - min) with the range of the *next*
    partition; the standard deviation over channels, softmaxed over the partition, is the information; that of key and
    value are averaged and ranked. On rotated keys, as in the published code.

    Adapted: the last partition, which the paper keeps whole as its sliding window, is seen against the one before it;
    and equal ranks are ordered by the information itself, so that partitions compete where the budget is no multiple.
    """
    owner, sizes = partition(kv.tokens, lag, kv.keys.device)
    share = _lag_relative(rotated_keys(kv, obs), lag, owner, sizes)
    share = (share + _lag_relative(exact(kv.values[0]), lag, owner, sizes)) / 2
    order = share.argsort(dim=-1, stable=True)
    order = order.gather(
        1, owner[order].argsort(dim=-1, stable=True)
    )  # by partition, then by share
    starts = sizes.cumsum(0) - sizes
    place = torch.arange(kv.tokens, device=order.device) - starts[owner]
    rank = torch.empty_like(share).scatter_(1, order, place.expand_as(order).to(share.dtype))
    return (rank + share) / sizes[owner]


def _lag_relative(x: Tensor, lag: int, owner: Tensor, sizes: Tensor) -> Tensor:
    """Information of vectors `(H, T, D)` against the next partition (the last against the one before), `(H, T)`."""
    count = len(sizes)
    whole = x[:, : count * lag].unflatten(1, (count, lag))
    low, high = whole.amin(dim=2), whole.amax(dim=2)  # (H, partitions, D)
    if count * lag < x.shape[1]:
        rest = x[:, count * lag :]
        low[:, -1] = torch.minimum(low[:, -1], rest.amin(dim=1))
        high[:, -1] = torch.maximum(high[:, -1], rest.amax(dim=1))
    other = torch.arange(1, count + 1, device=x.device)
    other[-1] = max(0, count - 2)
    reference = other[owner]
    span = (high - low).clamp_min(1e-6)  # equal keys have no range
    spread = ((x - low[:, reference]) / span[:, reference]).std(dim=-1)
    weight = (spread - _largest(spread, owner, count)[:, owner]).exp()
    return weight / weight.new_zeros(len(x), count).index_add_(1, owner, weight)[:, owner]


def _largest(x: Tensor, owner: Tensor, count: int) -> Tensor:
    """Largest of `(H, T)` in each partition, `(H, count)`."""
    start = x.new_full((len(x), count), -torch.inf)
    return start.scatter_reduce_(1, owner.expand_as(x), x, "amax")


def temporal_redundancy(kv: LayerKV, obs: Observation, recent: int) -> Tensor:
    """Minus the mean cosine of a key and the keys at its place in `recent` last steps, TaR of InfiniPot-V (2506.15745).

    s(t, place) = -mean_r cos(k(t, place), k(r, place)) over the chunk's last `recent` time steps r.

    Adapted: keys before RoPE, since the turn along time would count as change; recent steps are not kept whole (one
    alone may be more than a chunk's budget) but compared with the other recent ones, a single one with the step before
    it. A chunk of one step has no time axis and is scored by the norm of its values, the paper's other half.
    """
    steps = obs.grid[0]
    if steps == 1:
        return value_norm(kv, obs)
    keys = normalize(exact(kv.keys[0]), dim=-1).unflatten(1, (steps, -1))  # (H, steps, places, D)
    own = torch.arange(steps, device=keys.device) >= steps - recent
    latest = keys[:, own]
    cosine = (keys * latest.sum(dim=1, keepdim=True)).sum(dim=-1)
    # Without itself: its cosine is 1 but for keys of zero length.
    cosine = torch.where(own[:, None], cosine - keys.square().sum(dim=-1), cosine)
    cosine /= recent - own.to(cosine.dtype)[:, None] if recent > 1 else 1
    if recent == 1:
        cosine[:, -1] = (keys[:, -1] * keys[:, -2]).sum(dim=-1)
    return -cosine.flatten(1)
