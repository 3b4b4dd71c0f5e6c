"""Pruning through the real pre-fill, and its scores against the stock models' own attention."""

import sys
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import pytest
import torch

from tests.compressors.pruners import METHODS
from tests.parity import inputs_for
from tests.tiny import build, frames, ours
from x2l.compressors.base import Level
from x2l.compressors.pruning_base import Pruning
from x2l.compressors.pruning_by_attention import (
    TOVA,
    AttentionReceived,
    ExpectedAttention,
    SnapKV,
    TaskAware,
)
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.prefill import prefill
from x2l.models.attention import _scope

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")
RATIOS = (1, 2.5, 16)
by_family = pytest.mark.parametrize("family", FAMILIES)


@lru_cache
def filled(family, dtype=torch.float32, count=9):
    """One pass that prunes with every method at every ratio; the last chunk is short."""
    model = ours(family, dtype)
    levels = {f"{method!r} {r}": Level(method, r) for method in METHODS for r in RATIOS}
    return prefill(model, model.prompt(frames(count), 4), levels, context="full")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@by_family
def test_counts_order_shapes_and_dtypes(family, dtype):
    model, store = ours(family, dtype), filled(family, dtype)
    visual = [chunk.visual_tokens for chunk in store.prompt.chunks]
    assert len(visual) > 2 and visual[-1] < visual[0]
    for method in METHODS:
        for ratio in RATIOS:
            level = f"{method!r} {ratio}"
            assert store.kept(level) == tuple(ceil(n / ratio) for n in visual), level
            for kv, chunk in zip(store.levels[level], store.prompt.chunks, strict=True):
                text = chunk.tokens - chunk.visual_tokens
                for layer in (stored.decode() for stored in kv.layers):
                    shape = (1, 2, text + ceil(chunk.visual_tokens / ratio), model.shape.head_dim)
                    assert layer.keys.shape == layer.values.shape == shape
                    assert layer.keys.dtype == layer.values.dtype == dtype
                    assert not layer.keys.requires_grad and layer.keys.isfinite().all()
                    assert (layer.positions[0].diff(dim=-1) >= 0).all()
                    assert (layer.weights == 1).all()
    assert _scope.get() is None and not model.decoder._forward_pre_hooks


@by_family
def test_ratio_one_changes_no_bit(family):
    store = filled(family)
    for index in range(len(store.prompt.chunks)):
        raw = store.levels[f"{KeyNorm()!r} 1"][index]
        for method in METHODS:
            same = store.levels[f"{method!r} 1"][index]
            for a, b in zip(raw.layers, same.layers, strict=True):
                assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)


@by_family
def test_methods_keep_different_things(family):
    """No two agree on every head, layer and chunk: each looks at something of its own."""
    store = filled(family)
    kept = {
        repr(method): torch.cat(
            [layer.keys for kv in store.levels[f"{method!r} 16"] for layer in kv.layers], 2
        )
        for method in METHODS
    }
    same = [(a, b) for a in kept for b in kept if a < b and torch.equal(kept[a], kept[b])]
    assert not same


@by_family
def test_no_state_is_left_and_again_is_the_same(family):
    store = filled(family)
    filled.cache_clear()
    for level, kvs in filled(family).levels.items():
        for a, b in zip(kvs, store.levels[level], strict=True):
            assert all(torch.equal(x.keys, y.keys) for x, y in zip(a.layers, b.layers, strict=True))


def test_a_window_larger_than_the_budget_stops_before_anything_runs():
    model = ours("qwen2_5_vl")
    levels = {"high": Level(SnapKV(window=64), 32)}
    with pytest.raises(ValueError, match="snapkv: window=64: .* here 1 of 16 tokens"):
        prefill(model, model.prompt(frames(6), 4), levels)


def test_another_probe_keeps_other_kvs():
    model = ours("qwen2_5_vl")
    levels = {
        "a": Level(TaskAware(), 8),
        "b": Level(TaskAware(probe="What is the colour of the star?"), 8),
        "c": Level(TaskAware(probe=""), 8),
    }
    store = prefill(model, model.prompt(frames(8), 4), levels)
    keys = [kvs[0].layers[-1].keys for kvs in store.levels.values()]
    assert not any(torch.equal(keys[i], keys[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


# --- against the stock model ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorder(Pruning):
    """Keeps what it was shown."""

    shown: list
    name: str = "recorder"
    needs = frozenset({"queries"})

    def chosen(self, kv, obs, keep):
        self.shown.append((kv, obs))
        return torch.arange(keep)

    def flops(self, sizes):
        return 0


@lru_cache
def observed(family):
    """What methods see of the second chunk, layer by layer, and which prompt tokens are visual there."""
    model, shown = ours(family, torch.float64, "hf"), []
    prompt = model.prompt(frames(8), 4)
    prefill(model, prompt, {"low": Level(Recorder(shown), 2)})
    chunk = prompt.chunks[1]
    columns = chunk.is_visual.nonzero()[:, 0] + chunk.start
    return [(kv, obs) for kv, obs in shown if obs.chunk == 1], columns


@lru_cache
def eager(family):
    """The stock model's attention matrices over the whole prompt, `(Q, S, S)` a layer: nothing of ours is involved."""
    hf = build(family, torch.float64)
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        out = hf(**inputs_for(family, frames(8), torch.float64), output_attentions=True)
    return [layer[0] for layer in out.attentions]


def own_block(family, index):
    """Attention of the second chunk's visual tokens to each other, rows summing to 1, `(Q, T, T)`."""
    columns = observed(family)[1]
    block = eager(family)[index][:, columns][:, :, columns]
    return block / block.sum(dim=-1, keepdim=True)


@by_family
def test_scores_are_those_of_the_stock_models_own_attention(family):
    shown, columns = observed(family)
    assert len(shown) == 4 and int(columns[0]) > 16
    for index, (kv, obs) in enumerate(shown):
        block = own_block(family, index)
        tokens, half = len(columns), kv.keys.shape[1]
        heads = block.unflatten(0, (half, -1)).mean(dim=1)  # query heads by KV head
        received = AttentionReceived().score(kv, obs)
        assert torch.allclose(received, heads.sum(dim=1), atol=1e-9)
        mean = AttentionReceived(average=True).score(kv, obs)
        assert torch.allclose(mean, heads.sum(dim=1) / torch.arange(tokens, 0, -1), atol=1e-9)
        tova = TOVA().score(kv, obs)
        assert torch.allclose(tova, block[:, -1].mean(dim=0).expand(half, -1), atol=1e-9)
        snap = SnapKV(window=4, kernel=1).importance(kv, obs, 8)
        assert torch.allclose(snap[:, :-4], heads[:, -4:, :-4].mean(dim=1), atol=1e-9)


@dataclass(frozen=True)
class Stock:
    """What the stock model computes of the second chunk in one layer, by its own projections, norms and RoPE.

    Attributes:
        states: `(heads, T, D)` queries, keys and values before RoPE, by their first letter.
        positions: `(A, T)`.
        apply_rope: vectors `(n, D)`, positions `(A, n)` -> rotated.
        scaling: on query-key products.
    """

    states: dict
    positions: torch.Tensor
    apply_rope: object
    scaling: float


def stock_layer(family, index, columns):
    """Runs the stock model over the whole prompt and listens to one layer."""
    hf = build(family, torch.float64)
    decoder, heard = hf.get_decoder(), {}
    layer = decoder.layers[index].self_attn
    for name in "qkv":
        last = getattr(layer, f"{name}_norm", None) or getattr(layer, f"{name}_proj")
        last.register_forward_hook(lambda module, args, out, name=name: heard.update({name: out}))
    decoder.rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: heard.update(at=[*args, *kwargs.values()][1]), with_kwargs=True
    )
    with torch.no_grad():
        hf(**inputs_for(family, frames(8), torch.float64))
    states = {
        name: heard[name]
        .reshape(1, heard["v"].shape[1], -1, layer.head_dim)[0, columns]
        .transpose(0, 1)
        for name in "qkv"
    }
    apply = sys.modules[type(decoder).__module__].apply_rotary_pos_emb

    def apply_rope(vectors, positions):
        ids = positions[:, None] if len(positions) == 3 else positions
        cos, sin = decoder.rotary_emb(torch.zeros(1, dtype=torch.float64), ids)
        return apply(vectors[None, None], vectors[None, None], cos, sin)[0][0, 0]

    positions = heard["at"].flatten(0, -2)[:, columns]
    return Stock(states, positions, apply_rope, layer.scaling)


@by_family
def test_expected_attention_of_a_later_chunk_stands_at_its_true_positions(family):
    """Everything written out from what the stock model computes, one future position at a time."""
    shown, columns = observed(family)
    stock, future = stock_layer(family, 2, columns), 24
    axes, first = len(stock.positions), int(stock.positions.max()) + 1
    assert first != len(columns)  # where kvpress begins, whatever came before the chunk
    unit = torch.eye(stock.states["q"].shape[-1], dtype=torch.float64)
    places = [torch.full((axes, len(unit)), first + n) for n in range(future)]
    turn = sum(stock.apply_rope(unit, place) for place in places) / future
    got = ExpectedAttention(future=future).score(*shown[2])
    queries, keys, values = (stock.states[name] for name in "qkv")
    groups = len(queries) // len(keys)
    for head, plain in enumerate(keys):
        share = torch.zeros(len(columns), dtype=torch.float64)
        for query in queries[head * groups : (head + 1) * groups]:
            mean, covariance = query.mean(0) @ turn, turn.T @ query.T.cov(correction=0) @ turn
            logits = [
                stock.scaling * key @ mean + stock.scaling**2 / 2 * key @ covariance @ key
                for key in stock.apply_rope(plain, stock.positions)
            ]
            share += torch.stack(logits).softmax(0) / groups
        assert torch.allclose(got[head], share * values[head].norm(dim=-1), atol=1e-9)
