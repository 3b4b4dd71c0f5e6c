"""The question's own attention over the all-high cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query, RunFacts
from x2l.selectors.context_attention import attention_to


@dataclass(frozen=True)
class AttentionSelector(ChunkSelector):
    """Attention that the question's tokens pay to each chunk's H-KVs, mean over layers, heads and tokens. Final.

    Costs one pass of the question over the all-high cache, which the meter counts.
    """

    name: str = "attention"

    def check(self, run: RunFacts) -> None:
        """The coarsest level must keep KVs."""
        run.check_level(self.name, tuple(run.dropped)[-1])

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Mean attention mass of each chunk."""
        chunks = len(store.prompt.chunks)
        layers = range(model.shape.layers)
        total = torch.zeros(chunks, dtype=torch.float64)
        for one in attention_to(
            query.question, store, model, meter, [store.coarsest] * chunks, layers
        ):
            total += one.by_chunk().mean(dim=(0, 1)).cpu()
        return total / model.shape.layers
