"""Pruning methods against kvpress, where that is exact (skipped where it is not installed)."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.compressors.kvpress_oracle import kept, needs_kvpress, press, scores
from tests.compressors.pruners import GROUPS, HEADS, WIDTH, chunk
from tests.tiny import build, ours
from x2l.compressors.pruning_by_attention import (
    TOVA,
    AttentionReceived,
    Compactor,
    ExpectedAttention,
    SnapKV,
)
from x2l.compressors.pruning_by_keys import CUR, KeyDiff, KeyNorm, LagKV, Streaming

GRID = (8, 2, 4)
pytestmark = needs_kvpress


@pytest.mark.parametrize(
    ("method", "name", "options"),
    [
        (KeyNorm(), "KnormPress", {}),
        (KeyDiff(), "KeyDiffPress", {}),
        (Streaming(sink=2), "StreamingLLMPress", {"n_sink": 2}),
        (CUR(), "CURPress", {"num_sinks": 0}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_ours_keep_what_kvpress_keeps(method, name, options):
    kv, obs = chunk(GRID, shift=(7, 1, 2))
    for keep in (5, 21, 32):
        theirs = kept(kv, obs, keep, name, **options)
        assert torch.equal(method.compress(kv, obs, keep).keys, theirs)


def test_lag_kv_ranks_like_kvpress_where_that_ranks():
    """All but the last partition, which kvpress keeps whole."""
    kv, obs = chunk(GRID)
    theirs = scores(kv, obs, 32, "LagKVPress", n_sink=0, lag_size=8)[:, :-8]
    ours_ = LagKV(lag=8).importance(kv, obs, 32)[:, :-8]
    assert torch.equal((ours_ * 8).floor(), theirs * 8)


def attentions(kv, obs):
    """The chunk's attention as an eager forward would hand it to a press, `(1, Q, T, T)`."""
    keys = obs.rope.apply_rope(kv.keys, obs.positions).repeat_interleave(GROUPS, dim=1)
    logits = obs.queries @ keys.mT * obs.scaling
    future = torch.ones(logits.shape[-2:]).triu(1).bool()
    return logits.masked_fill(future, -torch.inf).softmax(-1)


MODULE = SimpleNamespace(
    config=SimpleNamespace(num_attention_heads=HEADS * GROUPS, num_key_value_heads=HEADS),
    head_dim=WIDTH,
)


def test_snapkv_tova_and_attention_received_equal_kvpress_on_eager_attention():
    kv, obs = chunk(GRID)
    arguments = (MODULE, torch.zeros(1, kv.tokens, 1), kv.keys, kv.values, attentions(kv, obs), {})
    theirs = press("SnapKVPress", window_size=6, kernel_size=5).score(*arguments)[0]
    ours_ = SnapKV(window=6, kernel=5).importance(kv, obs, 20)
    assert torch.allclose(ours_[:, :-6], theirs[:, :-6], atol=1e-6)
    theirs = press("TOVAPress").score(*arguments)[0]
    assert torch.allclose(TOVA().score(kv, obs)[:, :-1], theirs[:, :-1], atol=1e-6)
    theirs = press("ObservedAttentionPress").score(*arguments)[0]
    assert torch.allclose(AttentionReceived(average=True).score(kv, obs), theirs, atol=1e-6)


def test_both_halves_of_compactor_equal_kvpress():
    """Its logits lack the factor, its sums are over blocks; a sketch wider than the head changes little."""
    kv, obs = chunk(GRID)
    plain = replace(obs, scaling=1.0)
    keys = obs.rope.apply_rope(kv.keys, obs.positions).repeat_interleave(GROUPS, dim=1)
    non_causal = type(press("NonCausalAttnPress"))
    sums = (
        non_causal.non_causal_chunked_attn(obs.queries, keys, 16)[0]
        .unflatten(0, (HEADS, GROUPS))
        .mean(1)
    )
    smooth = torch.nn.functional.avg_pool1d(
        sums * kv.values[0].norm(dim=-1), 3, stride=1, padding=1
    )
    assert torch.allclose(Compactor(block=16).attention(kv, plain), smooth, rtol=1e-4)
    leverage = type(press("LeverageScorePress")).compute_leverage_scores
    theirs = leverage(kv.keys, 48)[0]
    assert torch.allclose(Compactor(sketch=48).leverage(kv, obs), theirs, rtol=0.05, atol=1e-3)


def test_expected_attention_equals_kvpress_in_the_only_chunk_it_is_right_for():
    """The first, at positions 0, 1, 2 ... of a text model with one axis."""
    decoder, model = build("llava_onevision").get_decoder(), ours("llava_onevision")
    module = decoder.layers[1].self_attn
    module.rotary_emb = decoder.rotary_emb
    hidden = torch.randn(
        1, 64, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0)
    )
    at = torch.arange(64)[None]
    with torch.no_grad():
        states = {
            name: getattr(module, f"{name}_proj")(hidden)
            .view(1, 64, -1, module.head_dim)
            .transpose(1, 2)
            for name in "qkv"
        }
        kv, obs = chunk(GRID)
        kv = replace(kv, keys=states["k"], values=states["v"], positions=at[:, None].float())
        queries = model.apply_rope(states["q"], at)
        obs = replace(obs, positions=at, rope=model, queries=queries, scaling=module.head_dim**-0.5)
        expected = press("ExpectedAttentionPress", n_future_positions=32, n_sink=0)
        theirs = expected.score(module, hidden, model.apply_rope(kv.keys, at), kv.values, None, {})
    assert torch.allclose(
        ExpectedAttention(future=32).score(kv, obs), theirs[0], rtol=1e-3, atol=1e-6
    )
