"""Keys of single heads, read from a level or kept on the device, and a question's products with them, by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore, LevelKeys
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.selectors.calibration import Head

Pool = Literal["max", "lse", "mean"]
Combine = Literal["max", "mean", "z_max"]
POOLS: tuple[Pool, ...] = get_args(Pool)
COMBINES: tuple[Combine, ...] = get_args(Combine)
INDEXES = ("host", "resident")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class KeyIndex:
    """Keys kept on the compute device, each layer's on its own.

    Attributes:
        vectors: (layer, KV head) -> `(n, D)`, as they are to be multiplied with queries.
        counts: how many of the n belong to each chunk; chunks stand in time order.
    """

    vectors: Mapping[tuple[int, int], Tensor]
    counts: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return sum(vectors.nbytes for vectors in self.vectors.values())


def all_heads(shape: ModelShape, first_layer: int = 0) -> tuple[Head, ...]:
    """Every query head from a layer on."""
    return tuple(
        (layer, head) for layer in range(first_layer, shape.layers) for head in range(shape.heads)
    )


def check_heads(name: str, heads: Iterable[Head], shape: ModelShape) -> None:
    """Checks that a model has these heads.

    Raises:
        ValueError: it has not.
    """
    for layer, head in heads:
        if not (0 <= layer < shape.layers and 0 <= head < shape.heads):
            raise ValueError(
                f"selector.{name}.heads: [{layer}, {head}] is beyond this model, which has {shape.layers} layers of "
                f"{shape.heads} heads, counted from 0; give heads of this model, or calibrate it with x2l-calibrate"
            )


def kv_heads(heads: Sequence[Head], shape: ModelShape) -> dict[int, dict[int, list[int]]]:
    """Layer -> KV head -> query heads that share it, all rising."""
    group = shape.heads // shape.kv_heads
    by_layer: dict[int, dict[int, list[int]]] = {}
    for layer, head in sorted(set(heads)):
        by_layer.setdefault(layer, {}).setdefault(head // group, []).append(head)
    return by_layer


def read_index(
    store: KVStore,
    model: VideoModel,
    level: str,
    heads: Sequence[Head],
    vectors_of: Callable[[LevelKeys, VideoModel], tuple[Tensor, tuple[int, ...]]],
    dtype: torch.dtype | None = None,
) -> tuple[KeyIndex, int]:
    """Reads the keys of some heads at a level: (what `vectors_of` makes of them, bytes streamed from the host).

    Args:
        store: of the video.
        model: the model.
        level: whose keys.
        heads: query heads; those of one KV head share its keys.
        vectors_of: the vectors to keep of one KV head, and how many belong to each chunk.
        dtype: to keep them in; None = as they are.
    """
    counts: tuple[int, ...] = ()
    vectors, streamed = {}, 0
    for layer, groups in kv_heads(heads, model.shape).items():
        for head, keys in zip(groups, store.keys(level, layer, list(groups)), strict=True):
            kept, counts = vectors_of(keys, model)
            vectors[layer, head] = kept if dtype is None else kept.to(dtype)
            streamed += keys.streamed_bytes
    return KeyIndex(vectors, counts), streamed


def rotated_keys(keys: LevelKeys, model: VideoModel, rope: bool) -> Tensor:
    """Keys `(T, D)` after RoPE or before."""
    return (
        model.apply_rope(keys.vectors[None, None], keys.positions)[0, 0] if rope else keys.vectors
    )


def products(
    queries: Callable[[int], Tensor],
    index: KeyIndex,
    heads: Sequence[Head],
    shape: ModelShape,
    scaling: float,
    meter: Meter,
) -> Iterator[Tensor]:
    """Scaled products of queries and an index, a KV head at a time: `(query heads, n, keys)`, all heads rising.

    Args:
        queries: layer -> `(Q, n, D)`.
        index: vectors.
        heads: query heads.
        shape: of the model.
        scaling: the model's factor.
        meter: counts stage `selection`.
    """
    for layer, groups in kv_heads(heads, shape).items():
        question_queries = queries(layer)
        for head, shared in groups.items():
            vectors = index.vectors[layer, head]
            meter.add("selection", 2 * len(shared) * question_queries.shape[1] * vectors.numel())
            yield question_queries[shared] @ vectors.to(question_queries.dtype).T * scaling


def pooled(logits: Tensor, counts: Sequence[int], pool: Pool) -> Tensor:
    """One value a chunk, `(..., chunks)`, of products `(..., keys)`: their maximum, mean, or log of the summed exps."""
    parts = logits.split(list(counts), dim=-1)
    if pool == "max":
        return torch.stack([part.amax(dim=-1) for part in parts], dim=-1)
    if pool == "mean":
        return torch.stack([part.mean(dim=-1) for part in parts], dim=-1)
    return torch.stack([part.logsumexp(dim=-1) for part in parts], dim=-1)


def combined(scores: Tensor, combine: Combine) -> Tensor:
    """One value a chunk, `(chunks,)` on the host, of `(heads, tokens, chunks)`.

    `max`: the most of a head's tokens, mean over heads. `mean`: over heads and tokens. `z_max`: every head and token on
    a scale of its own, mean 0 and deviation 1 over chunks (0 where all are equal); then the most of all.
    """
    if combine == "max":
        return scores.amax(dim=1).mean(dim=0).cpu()
    if combine == "mean":
        return scores.mean(dim=(0, 1)).cpu()
    spread = scores.std(dim=-1, keepdim=True, correction=0)
    z = (scores - scores.mean(dim=-1, keepdim=True)) / spread.clamp(
        min=torch.finfo(scores.dtype).tiny
    )
    return z.amax(dim=(0, 1)).cpu()
