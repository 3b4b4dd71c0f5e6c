"""Pruning: keep some KVs, drop the others. Here by keys, values and places; by attention in attention_pruning.py."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.compressors import scorers
from x2l.compressors.base import Compressor, Observation, Sizes
from x2l.kv import LayerKV


class Pruning(Compressor):
    """Abstract: keeps some KVs as they are."""

    @abstractmethod
    def chosen(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Indices of the KVs to keep, ascending: `(keep,)` for all heads alike, or `(H, keep)`.

        Raises:
            ValueError: a window, sink or lag does not fit `keep` of this chunk's tokens.
        """

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """The chosen KVs."""
        return kv.take(self.chosen(kv, obs, keep))


class RankedPruning(Pruning):
    """Abstract: keeps, head by head, the KVs of highest importance, which may depend on how many are kept."""

    @abstractmethod
    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Importance `(H, T)`; higher = keep.

        Raises:
            ValueError: a window, sink or lag does not fit `keep` of this chunk's tokens.
        """

    def chosen(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Those of highest importance, head by head."""
        scores = self.importance(kv, obs, keep)
        expected = (kv.keys.shape[1], kv.tokens)
        if tuple(scores.shape) != expected or scores.isnan().any():
            raise ValueError(
                f"{self.name}: score gave {tuple(scores.shape)} (NaN: {bool(scores.isnan().any())}); "
                f"must give {expected} without NaN"
            )
        # Stable: ties go to the earlier token on every machine. Sorted: KVs stay in time order.
        best = scores.argsort(dim=-1, descending=True, stable=True)[:, :keep]
        return best.sort(dim=-1).values


class ScoredPruning(RankedPruning):
    """Abstract: importance does not depend on how many are kept. A new method is one `score`."""

    @abstractmethod
    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Importance `(H, T)`; higher = keep."""

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """The score."""
        return self.score(kv, obs)


def whole(method: str, field: str, value: int, least: int, odd: bool = False) -> None:
    """Checks a number of tokens or steps that a method was given.

    Raises:
        ValueError: no integer, too small, or even where it must be odd.
    """
    if type(value) is not int or value < least or (odd and value % 2 == 0):
        raise ValueError(
            f"{method}: {field}={value!r}: must be an {'odd ' if odd else ''}integer >= {least}"
        )


def fits(method: str, field: str, value: int | None, tokens: int, keep: int) -> None:
    """Checks a number of tokens that a method keeps whatever their score; None follows the kept count and always fits.

    Raises:
        ValueError: nothing is left to choose.
    """
    if value is not None and value >= keep:
        raise ValueError(
            f"{method}: {field}={value}: always kept, so it must be smaller than the kept count, here {keep} of "
            f"{tokens} tokens, or nothing is left to choose; set {field} to null (follows the kept count) or below "
            f"{keep}, lower the ratio, or pre-fill larger chunks (prefill.chunk_frames)"
        )


@dataclass(frozen=True)
class KeyNorm(ScoredPruning):
    """Keeps keys of small L2 norm (Devoto et al., arXiv 2406.11430). Final."""

    name: str = "key_norm"

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Minus the norm of each key."""
        return scorers.key_norm(kv, obs)

    def flops(self, sizes: Sizes) -> int:
        """One square-and-add for each entry."""
        return 2 * sizes.heads * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class ValueNorm(ScoredPruning):
    """Keeps values of large L2 norm: VaN of InfiniPot-V (arXiv 2506.15745), without its pooling. Final."""

    name: str = "value_norm"

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """The norm of each value."""
        return scorers.value_norm(kv, obs)

    def flops(self, sizes: Sizes) -> int:
        """One square-and-add for each entry."""
        return 2 * sizes.heads * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class KeyDiff(ScoredPruning):
    """Keeps keys that point away from the mean direction of the chunk's keys (KeyDiff, arXiv 2504.15364). Final."""

    name: str = "key_diff"

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Minus the cosine to the mean direction."""
        return scorers.key_diff(kv, obs)

    def flops(self, sizes: Sizes) -> int:
        """Norm, mean and product: three multiply-adds for each entry."""
        return 6 * sizes.heads * sizes.tokens * sizes.head_dim


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
        whole(self.name, "window", self.window, 2)

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Product of the leverage scores."""
        return scorers.cur(kv, obs, self.window)

    def flops(self, sizes: Sizes) -> int:
        """One square-and-add for each entry of keys and values."""
        return 4 * sizes.heads * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class LagKV(RankedPruning):
    """Keeps KVs that stand out against the range of the partition that follows (LagKV, arXiv 2504.04704). Final.

    Adapted: no sinks (in the prompt before the video) and no sliding window, which at the end of every chunk would
    take most of a small budget; the last partition is seen against the one before it.

    Attributes:
        lag: tokens a partition; null = one time step, or more where that leaves more partitions than kept KVs, and at
            most half of the chunk.
    """

    lag: int | None = None
    name: str = "lag_kv"

    def __post_init__(self) -> None:
        """Checks the lag."""
        if self.lag is not None:
            whole(self.name, "lag", self.lag, 2)

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Rank in its partition."""
        self.check(kv.tokens, keep)
        lag = self.lag
        if lag is None:
            fair = max(obs.grid[1] * obs.grid[2], -(-kv.tokens // keep))
            lag = max(1, min(fair, kv.tokens // 2))
        return scorers.lag_kv(kv, obs, lag)

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
        return 8 * sizes.heads * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class TemporalRedundancy(ScoredPruning):
    """Drops what the chunk's last steps show at the same place: TaR of InfiniPot-V (arXiv 2506.15745). Final.

    Attributes:
        recent: time steps that are compared with, at most all of the chunk's; null = a quarter of them, at least one
            (the share of the published code).
    """

    recent: int | None = None
    name: str = "temporal_redundancy"

    def __post_init__(self) -> None:
        """Checks the number of steps."""
        if self.recent is not None:
            whole(self.name, "recent", self.recent, 1)

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Minus the similarity to recent steps."""
        steps = obs.grid[0]
        recent = max(1, steps // 4) if self.recent is None else min(self.recent, steps)
        return scorers.temporal_redundancy(kv, obs, recent)

    def flops(self, sizes: Sizes) -> int:
        """Norm, sum and product: three multiply-adds for each entry of the keys."""
        return 6 * sizes.heads * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class Streaming(RankedPruning):
    """Keeps the first and the last tokens of each chunk, whatever they hold (StreamingLLM, arXiv 2309.17453). Final.

    Adapted: first and last of the chunk, since every chunk is compressed once, when it has just been pre-filled.

    Attributes:
        sink: first tokens that are kept; null = the paper's 4, at most a quarter of the kept count.
    """

    sink: int | None = None
    name: str = "streaming"

    def __post_init__(self) -> None:
        """Checks the number of sinks."""
        if self.sink is not None:
            whole(self.name, "sink", self.sink, 0)

    def check(self, tokens: int, keep: int) -> None:
        """Whether sinks leave room for recent tokens.

        Raises:
            ValueError: they do not.
        """
        fits(self.name, "sink", self.sink, tokens, keep)

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """1 at both ends."""
        self.check(kv.tokens, keep)
        sink = min(4, keep // 4) if self.sink is None else self.sink
        return scorers.streaming(kv, sink, keep - sink)

    def flops(self, sizes: Sizes) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class RandomPruning(ScoredPruning):
    """Keeps a random subset, drawn anew for every head and layer. Control. Final."""

    name: str = "random"
    draws = True

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Uniform draws."""
        return scorers.random(kv, obs)

    def flops(self, sizes: Sizes) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class UniformPruning(Pruning):
    """Keeps evenly spaced tokens, the same for every head and layer: plain down-sampling. Control. Final."""

    name: str = "uniform"

    def chosen(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """The middle token of each of `keep` equal stretches."""
        index = torch.arange(keep, device=kv.keys.device)
        return ((2 * index + 1) * kv.tokens) // (2 * keep)

    def flops(self, sizes: Sizes) -> int:
        """None."""
        return 0
