"""What a mixed cache takes as it is stored, positions and weights included, known before the pre-fill.

How many bytes positions and weights take follows from what a method keeps: a position a head or one for all heads,
weights or none, whole numbers or means. So a layer of noise of the same sizes and at the same positions is compressed
and stored, once for every kind of chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from x2l.compressors.base import Compressor, Level, Observation
from x2l.engine.prefill_pass import stored_layer
from x2l.evaluation.budgets import assigned_by_count
from x2l.kv import LayerKV, PlainLayer
from x2l.models.interface import VideoModel
from x2l.models.prompt import Chunk, Prompt


def expected_bytes(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    top_k: int | str,
    pinned: Sequence[str],
) -> int:
    """Bytes of the mixed cache that the method decodes from, as `kv_bytes_stored` of its record counts them.

    Exact where all heads keep as many KVs; where they do not, the longest one decides, and it is that of noise.

    Args:
        model: tells the sizes, and turns vectors to positions.
        prompt: of all frames.
        levels: by name, finest first.
        top_k: chunks re-loaded, a ladder or a budget.
        pinned: on top of top_k.
    """
    prefix = _noise(model, prompt.positions[:, : prompt.prefix])
    total, kinds = prefix.stored_bytes * model.shape.layers, dict[object, tuple[int, int]]()
    for chunk, level, keeps in assigned_by_count(model, prompt, levels, top_k, pinned):
        if level.dropped:
            continue
        kind = level, keeps, chunk.grid, chunk.tokens
        size, times = kinds.get(kind) or (_chunk_bytes(model, chunk, level, keeps), 0)
        kinds[kind] = size, times + 1
    return total + sum(size * times for size, times in kinds.values())


def _chunk_bytes(model: VideoModel, chunk: Chunk, level: Level, keeps: tuple[int, ...]) -> int:
    whole = _noise(model, chunk.positions)
    is_visual = chunk.is_visual.to(whole.keys.device)
    visual, words = whole.take(is_visual.nonzero()[:, 0]), (~is_visual).nonzero()[:, 0]
    text, total = whole.take(words) if len(words) else None, 0
    for keep, times in Counter(keeps).items():
        if keep == visual.tokens and level.codec is None:
            total += times * PlainLayer.of(whole).stored_bytes
        else:
            kept = visual if keep == visual.tokens else _kept(model, chunk, level, visual, keep)
            total += times * stored_layer(level, kept, text).stored_bytes
    return total


def _kept(model: VideoModel, chunk: Chunk, level: Level, visual: LayerKV, keep: int) -> LayerKV:
    method = level.compressor
    if not isinstance(method, Compressor):  # summary tokens: a position each, for all heads
        return visual.take(torch.arange(keep, device=visual.keys.device))
    shape, probe = model.shape, None
    if "probe" in method.needs:
        probe = _normal(model, shape.heads, len(model.question(method.probe).input_ids))
    queries = _normal(model, shape.heads, visual.tokens) if "queries" in method.needs else None
    obs = Observation(
        layer=0,
        chunk=chunk.index,
        grid=chunk.grid,
        video_seed=0,
        positions=chunk.positions[:, chunk.is_visual].to(visual.keys.device),
        rope=model,
        scaling=model.scaling,
        queries=queries,
        probe=probe,
    )
    return method.compress(visual, obs, keep)


def _noise(model: VideoModel, positions: Tensor) -> LayerKV:
    """A layer's KVs at positions `(A, T)`."""
    tokens = positions.shape[1]
    keys, values = (_normal(model, model.shape.kv_heads, tokens, seed) for seed in (0, 1))
    places = positions[:, None].to(keys.device, torch.float32)
    return LayerKV(keys, values, places, torch.ones(1, tokens, device=keys.device))


def _normal(model: VideoModel, heads: int, tokens: int, seed: int = 2) -> Tensor:
    """`(1, heads, tokens, head_dim)` as the model's dtype and device have them."""
    drawn = torch.Generator().manual_seed(seed)
    numbers = torch.randn(1, heads, tokens, model.shape.head_dim, generator=drawn)
    return numbers.to(model.device, model.dtype)
