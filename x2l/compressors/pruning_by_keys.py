"""Pruning: by keys, values and places alone, without attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from typing_extensions import override

from x2l.compressors.base import Observation, Sizes
from x2l.compressors.pruning_base import (
    RankedPruning,
    ScoredPruning,
    check_fits,
    check_whole,
    exact,
    rotated_keys,
)
from x2l.kv import LayerKV


@dataclass(frozen=True)
class KeyNorm(ScoredPruning):
    """Keeps keys of small L2 norm (Devoto et al., arXiv 2406.11430). Final."""

    name: str = "key_norm"

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Minus the norm of each key: keys of small norm draw attention (eq. 3).

        RoPE does not change the norm, so un-rotated keys give the published score.
        """
        return -exact(kv.keys[0]).norm(dim=-1)

    def flops(self, sizes: Sizes) -> int:
        """One square-and-add for each entry."""
        return 2 * sizes.entries


@dataclass(frozen=True)
class ValueNorm(ScoredPruning):
    """Keeps values of large L2 norm: VaN of InfiniPot-V (arXiv 2506.15745), without its pooling. Final.

    The paper smooths it over neighbouring patches in early layers; its published code does not unless told to.
    """

    name: str = "value_norm"

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """The norm of each value."""
        return exact(kv.values[0]).norm(dim=-1)

    def flops(self, sizes: Sizes) -> int:
        """One square-and-add for each entry."""
        return 2 * sizes.entries


@dataclass(frozen=True)
class KeyDiff(ScoredPruning):
    """Keeps keys that point away from the mean direction of the chunk's keys (KeyDiff, arXiv 2504.15364). Final.

    Adapted: the paper evicts block by block, here a chunk is the block.
    """

    name: str = "key_diff"

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """s_i = -cos(k_i, mean_j k_j / |k_j|), on rotated keys, as in the paper's cache."""
        keys = rotated_keys(kv, obs)
        return -cosine_similarity(keys, normalize(keys, dim=-1).mean(dim=1, keepdim=True), dim=-1)

    def flops(self, sizes: Sizes) -> int:
        """Norm, mean and product: three multiply-adds for each entry."""
        return 6 * sizes.entries


@dataclass(frozen=True)
class CUR(ScoredPruning):
    """Keeps high leverage of key times value (CurDKV, arXiv 2509.15038). Final.

    Adapted: no sinks are kept, a video's lie in the prompt before it, which is never compressed.

    Attributes:
        window: tokens over which leverage is normalised.
    """

    window: int = 16
    name: str = "cur"

    def __post_init__(self) -> None:
        """Checks the window: over one token everything would be equal."""
        check_whole(self.name, "window", self.window, 2)

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """|k_i|^2 |v_i|^2, each divided by its mean over the `window` tokens around.

        The product of approximate leverage scores of K and V, in the form that kvpress' CURPress has without its
        random projection, which only approximates these norms.
        """
        owner, sizes = _partition(kv.tokens, self.window, kv.keys.device)

        def leverage(x: Tensor) -> Tensor:
            squares = exact(x[0]).square().sum(dim=-1)  # (H, T)
            sums = squares.new_zeros(len(squares), len(sizes)).index_add_(1, owner, squares)
            return squares / (sums / sizes).clamp_min(1e-20)[:, owner]

        return leverage(kv.keys) * leverage(kv.values)

    def flops(self, sizes: Sizes) -> int:
        """One square-and-add for each entry of keys and values."""
        return 4 * sizes.entries


@dataclass(frozen=True)
class LagKV(RankedPruning):
    """Keeps KVs that stand out against the range of the partition that follows (LagKV, arXiv 2504.04704). Final.

    Partitions hold `lag` tokens. In each channel x becomes (x - min) / (max - min) with the range of the *next*
    partition; the standard deviation over channels, softmaxed over the partition, is the information; that of key and
    value are averaged and ranked. On rotated keys, as in the published code.

    Adapted: no sinks (in the prompt before the video) and no sliding window, which at the end of every chunk would
    take most of a small budget; the last partition is compared with the one before it; and equal ranks are ordered by
    the information itself, so that partitions compete where the budget is no multiple.

    Attributes:
        lag: tokens a partition; null = one time step, or more where that leaves more partitions than kept KVs, and at
            most half of the chunk.
    """

    lag: int | None = None
    name: str = "lag_kv"

    def __post_init__(self) -> None:
        """Checks the lag."""
        if self.lag is not None:
            check_whole(self.name, "lag", self.lag, 2)

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Rank of each token in its partition, as a share of it."""
        self.check(kv.tokens, keep)
        lag = self.lag
        if lag is None:
            fair = max(obs.grid[1] * obs.grid[2], -(-kv.tokens // keep))
            lag = max(1, min(fair, kv.tokens // 2))
        owner, sizes = _partition(kv.tokens, lag, kv.keys.device)
        share = _lag_relative(rotated_keys(kv, obs), lag, owner, sizes)
        share = (share + _lag_relative(exact(kv.values[0]), lag, owner, sizes)) / 2
        order = share.argsort(dim=-1, stable=True)
        # By partition, then by share.
        order = order.gather(1, owner[order].argsort(dim=-1, stable=True))
        starts = sizes.cumsum(0) - sizes
        place = torch.arange(kv.tokens, device=order.device) - starts[owner]
        rank = torch.empty_like(share).scatter_(1, order, place.expand_as(order).to(share.dtype))
        return (rank + share) / sizes[owner]

    def check(self, tokens: int, keep: int) -> None:
        """Whether ranks within partitions choose anything.

        Raises:
            ValueError: fewer than 2 partitions, or more than kept KVs.
        """
        if self.lag is not None and (2 * self.lag > tokens or tokens // self.lag > keep):
            raise ValueError(
                f"{self.name}: lag={self.lag}: must give at least 2 partitions and at most one for each kept KV, here "
                f"{keep} of {tokens} tokens, or ranks within partitions choose nothing; set lag to null (one time "
                f"step, or what fits), lower the ratio, or pre-fill larger chunks (prefill.chunk_frames)"
            )

    def flops(self, sizes: Sizes) -> int:
        """Scaling and standard deviation: two multiply-adds for each entry of keys and values."""
        return 8 * sizes.entries


@dataclass(frozen=True)
class TemporalRedundancy(ScoredPruning):
    """Drops what the chunk's last steps show at the same place: TaR of InfiniPot-V (arXiv 2506.15745). Final.

    Adapted: keys before RoPE, since the turn along time would count as change; recent steps are not kept whole (one
    alone may be more than a chunk's budget) but compared with the other recent ones, a single one with the step before
    it. A chunk of one step has no time axis and is scored by the norm of its values, the paper's other half.

    Attributes:
        recent: time steps that are compared with, at most all of the chunk's; null = a quarter of them, at least one
            (the share of the published code).
    """

    recent: int | None = None
    name: str = "temporal_redundancy"

    def __post_init__(self) -> None:
        """Checks the number of steps."""
        if self.recent is not None:
            check_whole(self.name, "recent", self.recent, 1)

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """s(t, place) = -mean_r cos(k(t, place), k(r, place)) over the chunk's last `recent` time steps r."""
        steps = obs.grid[0]
        if steps == 1:
            return ValueNorm().score(kv, obs)
        recent = max(1, steps // 4) if self.recent is None else min(self.recent, steps)
        keys = normalize(exact(kv.keys[0]), dim=-1).unflatten(1, (steps, -1))
        is_recent = torch.arange(steps, device=keys.device) >= steps - recent
        latest = keys[:, is_recent]  # (H, steps, places, D)
        cosine = (keys * latest.sum(dim=1, keepdim=True)).sum(dim=-1)
        # Without itself: its cosine is 1 but for keys of zero length.
        cosine = torch.where(is_recent[:, None], cosine - keys.square().sum(dim=-1), cosine)
        cosine /= recent - is_recent.to(cosine.dtype)[:, None] if recent > 1 else 1
        if recent == 1:
            cosine[:, -1] = (keys[:, -1] * keys[:, -2]).sum(dim=-1)
        return -cosine.flatten(1)

    def flops(self, sizes: Sizes) -> int:
        """Norm, sum and product: three multiply-adds for each entry of the keys."""
        return 6 * sizes.entries


@dataclass(frozen=True)
class Streaming(RankedPruning):
    """Keeps the first and the last tokens of each chunk, whatever they hold (StreamingLLM, arXiv 2309.17453). Final.

    Adapted: first and last of the chunk, since every chunk is compressed once, when it has just been pre-filled.

    Attributes:
        sink: first tokens that are kept; null = the paper's 4 (section 3.2), at most a quarter of the kept count.
    """

    sink: int | None = None
    name: str = "streaming"

    def __post_init__(self) -> None:
        """Checks the number of sinks."""
        if self.sink is not None:
            check_whole(self.name, "sink", self.sink, 0)

    def check(self, tokens: int, keep: int) -> None:
        """Whether sinks leave room for recent tokens.

        Raises:
            ValueError: they do not.
        """
        check_fits(self.name, "sink", self.sink, tokens, keep)

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """1 at both ends, 0 between."""
        self.check(kv.tokens, keep)
        sink = min(4, keep // 4) if self.sink is None else self.sink
        score = torch.zeros(kv.keys.shape[1], kv.tokens, device=kv.keys.device)
        score[:, :sink] = 1
        score[:, kv.tokens - (keep - sink) :] = 1
        return score

    @override
    def flops(self, sizes: Sizes) -> int:
        return 0


def _partition(tokens: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cuts tokens into stretches of `size`; what is left over at the end joins the last one.

    Returns:
        `(T,)` stretch of each token, and `(stretches,)` sizes.
    """
    count = max(1, tokens // size)
    owner = (torch.arange(tokens, device=device) // size).clamp_max(count - 1)
    sizes = torch.full((count,), size, device=device)
    sizes[-1] = tokens - (count - 1) * size
    return owner, sizes


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
