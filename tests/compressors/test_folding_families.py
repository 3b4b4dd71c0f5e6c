"""Every merging, pooling and composed method through the real pre-fill of three families.

One pre-fill a family and dtype holds all methods at all ratios as so many levels.
"""

from functools import lru_cache
from itertools import product
from math import ceil

import pytest
import torch

from tests.compressors.folders import METHODS, RAGGED
from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.prefill import prefill
from x2l.models.attention import _scope

FAMILIES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]
RATIOS = (1, 1.3, 7, 64)
DTYPES = (torch.float32, torch.bfloat16)
NAMES = [repr(method) for method in METHODS]


@lru_cache
def filled(family, dtype):
    """Two chunks, the last one shorter."""
    model = ours(family, dtype)
    levels = {"raw": Level(KeyNorm(), 1)}
    for name, method in zip(NAMES, METHODS, strict=True):
        levels |= {f"{name} {ratio}": Level(method, ratio) for ratio in RATIOS}
    return prefill(model, model.prompt(frames(6), 4), levels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_counts_order_shape_and_dtype(family, dtype):
    store, model = filled(family, dtype), ours(family, dtype)
    chunks = store.prompt.chunks
    assert len({chunk.visual_tokens for chunk in chunks}) == 2
    for method, ratio in product(METHODS, RATIOS):
        level = f"{method!r} {ratio}"
        assert store.kept(level) == tuple(ceil(chunk.visual_tokens / ratio) for chunk in chunks)
        for kv, chunk in zip(store.levels[level], chunks, strict=True):
            for stored in kv.layers:
                layer = stored.decode()
                shape = (1, model.shape.kv_heads, stored.tokens, model.shape.head_dim)
                assert layer.keys.shape == layer.values.shape == shape, level
                assert layer.keys.dtype == layer.values.dtype == dtype, level
                assert layer.keys.isfinite().all() and layer.values.isfinite().all(), level
                assert (layer.positions[0].diff(dim=-1) >= 0).all(), level
                tensors = (layer.keys, layer.values, layer.positions, layer.weights)
                assert not any(tensor.requires_grad for tensor in tensors), level
                text = chunk.tokens - chunk.visual_tokens
                if method not in RAGGED:
                    assert layer.tokens == text + ceil(chunk.visual_tokens / ratio), level


@pytest.mark.parametrize("family", FAMILIES)
def test_ratio_1_is_the_identity(family):
    store = filled(family, torch.float32)
    for name in NAMES:
        for kept, raw in zip(store.levels[f"{name} 1"], store.levels["raw"], strict=True):
            for layer, same in zip(kept.layers, raw.layers, strict=True):
                for field in ("keys", "values", "positions", "weights"):
                    assert torch.equal(
                        getattr(layer.decode(), field), getattr(same.decode(), field)
                    ), name


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_stays_behind(family):
    filled(family, torch.float32)
    decoder = ours(family).decoder
    hooks = [m for m in decoder.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks and _scope.get() is None


@pytest.mark.parametrize("family", FAMILIES)
def test_text_inside_a_chunk_stays_as_it_was(family):
    """Each text KV of the raw chunk is among the compressed chunk's, bit for bit."""
    store = filled(family, torch.float32)
    chunk = store.prompt.chunks[-1]
    text = store.levels["raw"][-1].layers[1].decode().keys[0, 0, ~chunk.is_visual]
    assert (len(text) > 0) is (family != "qwen2_5_vl")  # timestamps; a newline after the last frame
    for name in NAMES:
        layer = store.levels[f"{name} 7"][-1].layers[1].decode()
        kept = {tuple(row) for row in layer.keys[0, 0].tolist()}
        assert all(tuple(row) in kept for row in text.tolist()), name
