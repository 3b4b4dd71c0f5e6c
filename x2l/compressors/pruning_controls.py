"""Pruning: controls that do not look at the KVs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from x2l.compressors.base import Observation, Sizes
from x2l.compressors.draws import seeded
from x2l.compressors.pruning_base import Pruning, ScoredPruning
from x2l.kv import LayerKV


@dataclass(frozen=True)
class RandomPruning(ScoredPruning):
    """Keeps a random subset, drawn anew for every head and layer. Control. Final."""

    name: str = "random"
    draws = True

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Independent uniform draws: the floor that any method must beat."""
        generator = seeded(obs.video_seed, obs.chunk, obs.layer)
        return torch.rand(kv.keys.shape[1], kv.tokens, generator=generator).to(kv.keys.device)

    @override
    def flops(self, sizes: Sizes) -> int:
        return 0


@dataclass(frozen=True)
class UniformPruning(Pruning):
    """Keeps evenly spaced tokens, the same for every head and layer: plain down-sampling. Control. Final."""

    name: str = "uniform"

    def chosen(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """The middle token of each of `keep` equal stretches."""
        index = torch.arange(keep, device=kv.keys.device)
        return ((2 * index + 1) * kv.tokens) // (2 * keep)

    @override
    def flops(self, sizes: Sizes) -> int:
        return 0
