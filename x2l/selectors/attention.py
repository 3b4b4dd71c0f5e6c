"""The question's own attention over the all-high cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.engine.decode import ask
from x2l.engine.flops import question_flops
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.attention import AttentionCapture
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query


@dataclass(frozen=True)
class AttentionSelector(ChunkSelector):
    """Attention that the question's tokens pay to each chunk's H-KVs, mean over layers, heads and tokens. Final.

    Costs one pass of the question over the all-high cache, which the meter counts.
    """

    name: str = "attention"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Mean attention mass of each chunk."""
        mixed = store.mix([store.coarsest] * len(store.prompt.chunks))
        cache = model.load_cache(mixed.kv, reserve=len(query.question.input_ids))
        capture = AttentionCapture(want_keys=True)
        biases = cache.bias
        ask(model, cache, query.question, mixed.place, capture)
        tokens = len(query.question.input_ids)
        meter.add("selection", question_flops(model.shape, mixed.mean_tokens, tokens))
        total = torch.zeros(len(store.prompt.chunks))
        for layer, queries in capture.queries.items():
            paid = _paid(queries, capture.keys[layer], capture.scaling[layer], biases[layer])
            total += torch.stack(
                [paid[start:stop].sum() for start, stop in mixed.spans[layer]]
            ).cpu()
            meter.add("selection", 2 * queries.numel() * capture.keys[layer].shape[2])
        return total / len(capture.queries)


def _paid(queries: Tensor, keys: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
    """Attention each key receives, `(T_all,)`, mean over heads and question tokens."""
    heads, tokens = queries.shape[1], queries.shape[2]
    wide = keys.repeat_interleave(heads // keys.shape[1], dim=1)
    logits = (queries.float() @ wide.float().transpose(2, 3))[0] * scaling  # (Q, tokens, T_all)
    if bias is not None:
        logits[:, :, : bias.shape[1]] += bias.repeat_interleave(heads // bias.shape[0], dim=0)[
            :, None
        ]
    cached = logits.shape[-1] - tokens
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=logits.device).triu(1)
    logits[:, :, cached:] = logits[:, :, cached:].masked_fill(later, float("-inf"))
    return logits.softmax(dim=-1).mean(dim=(0, 1))
