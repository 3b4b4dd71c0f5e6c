"""Similarity of input embeddings, as in the official code's ablation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query


@dataclass(frozen=True)
class EmbeddingSelector(ChunkSelector):
    """Dot products of question and visual tokens before the first layer: mean per frame, max over the chunk. Final.

    The ablation's selector in the official repository (commit 2ac78b75, `llava_qwen.py` lines 2099-2175): all text
    tokens after the video, no normalisation. A frame here is a time step (two frames for Qwen-VL).
    """

    name: str = "embedding"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Mean dot product of each time step, maximum over the chunk's steps."""
        words = model.embed_text(query.question.input_ids).embeds[0].float().mean(dim=0).cpu()
        # A mean of dot products is the dot product of means.
        scores = store.step_embeds @ words
        meter.add("selection", 2 * store.step_embeds.numel())
        owner = torch.tensor(store.step_chunk)
        relevance = torch.full((len(store.prompt.chunks),), float("-inf"))
        return relevance.scatter_reduce(0, owner, scores, reduce="amax")
