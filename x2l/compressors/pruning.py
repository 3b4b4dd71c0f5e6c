"""Pruning: keep some KVs, drop the others."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.compressors import scorers
from x2l.compressors.base import Compressor, Observation
from x2l.kv import LayerKV


class ScoredPruning(Compressor):
    """Abstract: keeps, head by head, the KVs of highest score. A new method is one `score`."""

    @abstractmethod
    def score(self, kv: LayerKV, seen: Observation) -> Tensor:
        """Importance `(H, T)`; higher = keep."""

    def compress(self, kv: LayerKV, seen: Observation, keep: int) -> LayerKV:
        """The `keep` KVs of highest score of each head, in time order."""
        scores = self.score(kv, seen)
        expected = (kv.keys.shape[1], kv.tokens)
        if tuple(scores.shape) != expected or scores.isnan().any():
            raise ValueError(
                f"{self.name}: score gave {tuple(scores.shape)} (NaN: {bool(scores.isnan().any())}); "
                f"must give {expected} without NaN"
            )
        # Stable: ties go to the earlier token on every machine. Sorted: KVs stay in time order.
        best = scores.argsort(dim=-1, descending=True, stable=True)[:, :keep]
        return kv.take(best.sort(dim=-1).values)


@dataclass(frozen=True)
class KeyNorm(ScoredPruning):
    """Keeps keys of small L2 norm (Devoto et al., arXiv 2406.11430). Final."""

    name: str = "key_norm"

    def score(self, kv: LayerKV, seen: Observation) -> Tensor:
        """Minus the norm of each key."""
        return scorers.key_norm(kv, seen)

    def flops(self, heads: int, tokens: int, keep: int, head_dim: int) -> int:
        """One square-and-add for each entry."""
        return 2 * heads * tokens * head_dim


@dataclass(frozen=True)
class RandomPruning(ScoredPruning):
    """Keeps a random subset, drawn anew for every head and layer. Control. Final."""

    name: str = "random"

    def score(self, kv: LayerKV, seen: Observation) -> Tensor:
        """Uniform draws."""
        return scorers.random(kv, seen)

    def flops(self, heads: int, tokens: int, keep: int, head_dim: int) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class UniformPruning(Compressor):
    """Keeps evenly spaced tokens, the same for every head and layer: plain down-sampling. Control. Final."""

    name: str = "uniform"

    def compress(self, kv: LayerKV, seen: Observation, keep: int) -> LayerKV:
        """The middle token of each of `keep` equal stretches."""
        index = torch.arange(keep, device=kv.keys.device)
        return kv.take(((2 * index + 1) * kv.tokens) // (2 * keep))

    def flops(self, heads: int, tokens: int, keep: int, head_dim: int) -> int:
        """None."""
        return 0
