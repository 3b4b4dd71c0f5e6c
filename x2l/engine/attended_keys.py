"""Keys of every chunk that its own tokens attend to most, written at the pre-fill: its queries are gone later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.engine.attention_weights import attention_weights
from x2l.engine.meter import Meter
from x2l.kv import KV, LayerKV
from x2l.models.attention import AttentionCapture
from x2l.models.prompt import Chunk

BLOCK = 256  # queries whose attention is in memory at a time


@dataclass(frozen=True, order=True)
class AttendedKeys:
    """What a pre-fill is to keep of every chunk beside its levels. Final.

    Attributes:
        layers: rising, counted from 0.
        count: visual tokens of each chunk and layer; all of a chunk that has fewer.
    """

    layers: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class ChunkKeys:
    """Keys that were kept, each layer's on the device of that layer.

    Attributes:
        layers: of the model.
        keys: of each of these layers, `(H, T, D)`, un-rotated, chunk after chunk, in time order.
        counts: how many of the T belong to each chunk.
        flops: operations that choosing them took.
        seconds: that it took.
    """

    layers: tuple[int, ...]
    keys: tuple[Tensor, ...]
    counts: tuple[int, ...]
    flops: int
    seconds: float

    @property
    def nbytes(self) -> int:
        """Bytes of all keys."""
        return sum(keys.nbytes for keys in self.keys)


class IndexWriter:
    """Collects one index, chunk by chunk. Lives for one call of `prefill`."""

    def __init__(self, index: AttendedKeys) -> None:
        """With nothing written yet."""
        self.index = index
        self.keys: list[list[Tensor]] = [[] for _ in index.layers]
        self.counts: list[int] = []
        self.flops, self.seconds = 0, 0.0

    def write(
        self,
        chunk: Chunk,
        raw: KV,
        capture: AttentionCapture,
        bias: Sequence[Tensor | None],
        meter: Meter,
    ) -> None:
        """Keeps a chunk's most attended keys, while its queries and what they attended to are there.

        Args:
            chunk: that was just run.
            raw: its KVs, un-rotated.
            capture: its queries, and all keys.
            bias: of each layer, as the cache had it.
            meter: times stage `retrieval`.
        """
        before, wanted = meter.seconds["retrieval"], self.index.count
        with meter.stage("retrieval"):
            for kept, layer in zip(self.keys, self.index.layers, strict=True):
                queries, keys = capture.queries[layer], capture.keys[layer]
                attended = (queries, keys, capture.scaling[layer], bias[layer])
                kept.append(attended_keys(raw.layers[layer], chunk.is_visual, *attended, wanted))
                cached = keys.shape[2] - chunk.tokens
                self.flops += received_flops(
                    queries.shape[1], queries.shape[3], chunk.tokens, cached
                )
        self.seconds += meter.seconds["retrieval"] - before
        self.counts.append(min(wanted, chunk.visual_tokens))

    def written(self) -> ChunkKeys:
        """What was kept of all chunks."""
        keys = tuple(torch.cat(of_layer, dim=1) for of_layer in self.keys)
        return ChunkKeys(self.index.layers, keys, tuple(self.counts), self.flops, self.seconds)


def attended_keys(
    raw: LayerKV,
    is_visual: Tensor,
    queries: Tensor,
    keys: Tensor,
    scaling: float,
    bias: Tensor | None,
    count: int,
) -> Tensor:
    """Keys `(H, count, D)` of the chunk's visual tokens that get most attention from the chunk's tokens, in time order.

    Args:
        raw: one layer's KVs of the chunk, un-rotated.
        is_visual: `(T,)`, of the chunk's tokens.
        queries: `(1, Q, T, D)` of the chunk, rotated.
        keys: `(1, H, T_all, D)`, rotated; the chunk's are the last.
        scaling: the factor on query-key products.
        bias: `(h, T')` on the logits of the first T' keys.
        count: how many.
    """
    received = attention_received(queries, keys, scaling, bias)
    places = is_visual.to(received.device).nonzero()[:, 0]
    order = received[places].argsort(descending=True, stable=True)
    return raw.keys[0][:, places[order[:count]].sort().values]


def attention_received(
    queries: Tensor, keys: Tensor, scaling: float, bias: Tensor | None
) -> Tensor:
    """Attention that each of a chunk's tokens gets from all of them, `(T,)`: summed over these, mean over query heads.

    Block of queries by block and KV head by KV head, so that memory does not grow with the square of the tokens.
    """
    heads, tokens = keys.shape[1], queries.shape[2]
    group, cached = queries.shape[1] // heads, keys.shape[2] - tokens
    exact = torch.promote_types(queries.dtype, torch.float32)
    total = torch.zeros(tokens, dtype=exact, device=queries.device)
    for head in range(heads):
        sharing = queries[:, head * group : (head + 1) * group]
        of_head = None if bias is None else bias[head % len(bias)][None]
        for start in range(0, tokens, BLOCK):
            block = sharing[:, :, start : start + BLOCK]
            stop = start + block.shape[2]
            seen = keys[:, head : head + 1, : cached + stop]
            paid = attention_weights(block, seen, scaling, of_head)
            total[:stop] += paid[..., cached:].sum(dim=(0, 1))
    return total / queries.shape[1]


def received_flops(query_heads: int, head_dim: int, tokens: int, cached: int) -> int:
    """Operations of `attention_received`: its products of queries and keys."""
    stops = [min(start + BLOCK, tokens) for start in range(0, tokens, BLOCK)]
    pairs = sum((stop - BLOCK * i) * (cached + stop) for i, stop in enumerate(stops))
    return 2 * query_heads * head_dim * pairs
