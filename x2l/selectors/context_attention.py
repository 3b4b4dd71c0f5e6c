"""Attention that a question pays to what it is run over, layer by layer and head by head, as the model computes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.engine.attention_weights import attention_weights
from x2l.engine.decode import question_positions
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.attention import AttentionCapture
from x2l.models.interface import VideoModel
from x2l.models.prompt import Question
from x2l.selectors.question_pass import pass_flops


@dataclass(frozen=True)
class LayerAttention:
    """One layer's attention.

    Attributes:
        layer: of the model.
        paid: `(Q, n, T)`, of each query head and token of the question to each KV of the mixed cache, of which every
            token's sum is at most 1: the rest goes to the question itself.
        spans: the KVs of each chunk as (start, stop); an empty one for a chunk that is dropped.
    """

    layer: int
    paid: Tensor
    spans: tuple[tuple[int, int], ...]

    def by_chunk(self) -> Tensor:
        """Summed over the KVs of each chunk, `(Q, n, chunks)`."""
        return torch.stack([self.paid[..., a:b].sum(dim=-1) for a, b in self.spans], dim=-1)


def attention_to(
    question: Question,
    store: KVStore,
    model: VideoModel,
    meter: Meter,
    assignment: Sequence[str | None],
    layers: Sequence[int],
) -> Iterator[LayerAttention]:
    """Runs a question over a mixed cache as far as the last of some layers, and yields the attention in these.

    Args:
        question: all of its tokens are run.
        store: of the video.
        model: the model.
        meter: counts stage `selection`, and bytes that come from the host.
        assignment: as in `KVStore.mix`.
        layers: rising.
    """
    last, count = layers[-1], len(question.input_ids)
    mixed = store.mix(assignment)
    cache = model.load_cache(mixed.layers(last + 1), reserve=count)
    biases, capture = cache.bias, AttentionCapture(want_keys=True, last=last)
    positions = question_positions(model.axes, mixed.place, count)
    model.prefill_span(model.embed_text(question.input_ids), positions, cache, capture)
    meter.add("selection", pass_flops(model.shape, count, mixed.mean_tokens, last))
    meter.streamed_bytes += _streamed(store, assignment, last)
    for layer in layers:
        queries, keys = capture.queries[layer], capture.keys[layer]
        meter.add("selection", 2 * queries.numel() * keys.shape[2])
        paid = attention_weights(queries, keys, capture.scaling[layer], biases[layer])
        yield LayerAttention(layer, paid[..., : keys.shape[2] - count], mixed.spans[layer])


def _streamed(store: KVStore, assignment: Sequence[str | None], last: int) -> int:
    """Bytes that come from the host: whole layers before the last, and the last one's keys."""
    total = 0
    for chunk, level in enumerate(assignment):
        if level is not None and level != store.coarsest:
            layers = store.levels[level][chunk].layers
            heads = range(store.prefix.layers[last].keys.shape[1])
            total += sum(layer.nbytes for layer in layers[:last])
            total += sum(layers[last].head_key_bytes(head) for head in heads)
    return total
