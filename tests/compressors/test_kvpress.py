"""The kvpress adapter, and this package's scorers against kvpress where that is exact (skipped without the extra)."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.compressors.pruners import GROUPS, HEADS, WIDTH, chunk, places
from tests.tiny import build, frames, ours
from x2l.compressors import attention_scorers, kvpress, scorers
from x2l.compressors.base import Level
from x2l.compressors.kvpress import REFUSED, SUPPORTED, KVPress
from x2l.compressors.pruning_by_attention import TOVA, AttentionReceived, ExpectedAttention, SnapKV
from x2l.compressors.pruning_by_keys import CUR, KeyDiff, KeyNorm, Streaming
from x2l.engine.prefill import prefill

needs_kvpress = pytest.mark.skipif(
    find_spec("kvpress") is None, reason="the extra is absent: pip install 'x2l[kvpress]'"
)
GRID = (8, 2, 4)
OPTIONS = {
    "LagKVPress": {"n_sink": 0, "lag_size": 8},
    "CURPress": {"num_sinks": 0},
    "StreamingLLMPress": {"n_sink": 2},
}
PRESSES = (
    [KVPress(name, OPTIONS.get(name, {})) for name in SUPPORTED] if find_spec("kvpress") else []
)


# --- what needs no kvpress ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("press", sorted(REFUSED))
def test_a_press_that_cannot_be_right_is_refused_by_name_with_the_reason(press):
    with pytest.raises(ValueError) as refusal:
        KVPress(press)
    assert f"press='{press}': {REFUSED[press]}" in str(refusal.value)
    assert str(SUPPORTED) in str(refusal.value)


def test_an_unknown_press_and_a_ratio_of_its_own_are_refused():
    with pytest.raises(ValueError, match="press='Bogus': is not known; .*KnormPress"):
        KVPress("Bogus")
    with pytest.raises(ValueError, match="options.compression_ratio: follows from the level"):
        KVPress("KnormPress", {"compression_ratio": 0.5})


@pytest.mark.parametrize("found", [None, "0.5.5"])
def test_another_version_or_none_says_what_to_install(found, monkeypatch):
    def version(name):
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(kvpress, "version", version)
    kvpress._press.cache_clear()
    with pytest.raises(
        ValueError, match=rf"version 0.5.2 must be installed, found {found}; pip install"
    ):
        KVPress("KnormPress")
    kvpress._press.cache_clear()


# --- the adapter ----------------------------------------------------------------------------------------------------


@needs_kvpress
def test_every_press_of_kvpress_is_decided_on():
    module = __import__("kvpress")
    base = {"BasePress", "ScorerPress"}
    assert {name for name in module.__all__ if name.endswith("Press")} - base == {
        *SUPPORTED,
        *REFUSED,
    }


@needs_kvpress
def test_importing_leaves_attention_alone():
    """kvpress wraps every attention function when it is imported; ours must be what runs."""
    KVPress("KnormPress")
    for name, function in ALL_ATTENTION_FUNCTIONS.items():
        assert "kvpress" not in getattr(function, "__module__", ""), name
        assert ALL_ATTENTION_FUNCTIONS._global_mapping[name] is function


@needs_kvpress
@pytest.mark.parametrize("press", PRESSES, ids=lambda p: p.press)
def test_presses_keep_exact_counts_in_time_order(press):
    kv, obs = chunk(GRID)
    for keep in (5, 22, 63):
        if press.press == "LagKVPress" and keep == 5:
            continue
        at = places(kv, press.compress(kv, obs, keep))
        assert at.shape == (HEADS, keep) and (at.diff(dim=-1) > 0).all()


@needs_kvpress
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_presses_run_in_the_pre_fill(family):
    model = ours(family)
    levels = {press.press: Level(press, 2) for press in PRESSES}
    store = prefill(model, model.prompt(frames(8), 8), levels)
    assert {store.kept(level) for level in levels} == {(store.prompt.chunks[0].visual_tokens // 2,)}


@needs_kvpress
@pytest.mark.parametrize(
    ("press", "own"),
    [
        (KVPress, KeyNorm()),
        (KVPress, KeyDiff()),
        (KVPress, Streaming(sink=2)),
        (KVPress, CUR()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("keep", [5, 21, 32])
def test_ours_keep_what_kvpress_keeps(press, own, keep):
    name = {"key_norm": "KnormPress", "key_diff": "KeyDiffPress", "cur": "CURPress"}.get(
        own.name, "StreamingLLMPress"
    )
    kv, obs = chunk(GRID, shift=(7, 1, 2))
    theirs = press(name, OPTIONS.get(name, {})).compress(kv, obs, keep)
    assert torch.equal(own.compress(kv, obs, keep).keys, theirs.keys)


@needs_kvpress
def test_lag_kv_ranks_like_kvpress_where_that_ranks():
    """All but the last partition, which kvpress keeps whole."""
    kv, obs = chunk(GRID)
    theirs = KVPress("LagKVPress", OPTIONS["LagKVPress"]).importance(kv, obs, 32)[:, :-8]
    assert torch.equal((scorers.lag_kv(kv, obs, 8)[:, :-8] * 8).floor(), theirs * 8)


@needs_kvpress
@pytest.mark.parametrize(
    ("press", "keep", "message"),
    [
        (
            ("LagKVPress", {}),
            45,
            "LagKVPress always keeps 160 tokens .* 45 of 288 .*options.lag_size lower",
        ),
        (
            ("StreamingLLMPress", {"n_sink": 9}),
            9,
            "StreamingLLMPress always keeps 9 .*options.n_sink",
        ),
        (("CURPress", {}), 4, "CURPress always keeps 4 .*options.num_sinks"),
    ],
)
def test_a_press_that_would_choose_nothing_is_refused(press, keep, message):
    method = KVPress(*press)
    with pytest.raises(ValueError, match=message):
        method.check(288, keep)
    method.check(1440, 700)


@needs_kvpress
def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match=r"options=\{'sinks': 1\}: .*unexpected keyword"):
        KVPress("StreamingLLMPress", {"sinks": 1})


@needs_kvpress
def test_random_press_draws_by_chunk_and_layer_unless_it_has_a_seed():
    kv, obs = chunk(GRID)

    def kept(press, **changes):
        return places(kv, press.compress(kv, replace(obs, **changes), 9))

    free, fixed = KVPress("RandomPress"), KVPress("RandomPress", {"seed": 1})
    assert torch.equal(kept(free), kept(free)) and not torch.equal(kept(free), kept(free, layer=1))
    assert torch.equal(kept(fixed), kept(fixed, layer=1))


# --- our scorers against formulas of kvpress that the adapter cannot call -------------------------------------------


def attentions(kv, obs):
    """The chunk's attention as an eager forward would hand it to a press, `(1, Q, T, T)`."""
    keys = obs.rope.apply_rope(kv.keys, obs.positions).repeat_interleave(GROUPS, dim=1)
    logits = obs.queries @ keys.mT * obs.scaling
    future = torch.ones(logits.shape[-2:]).triu(1).bool()
    return logits.masked_fill(future, -torch.inf).softmax(-1)


def press_of(name, **options):
    return getattr(__import__("kvpress"), name)(compression_ratio=0.5, **options)


MODULE = SimpleNamespace(
    config=SimpleNamespace(num_attention_heads=HEADS * GROUPS, num_key_value_heads=HEADS),
    head_dim=WIDTH,
)


@needs_kvpress
def test_snapkv_tova_and_attention_received_equal_kvpress_on_eager_attention():
    kv, obs = chunk(GRID)
    given = (MODULE, torch.zeros(1, kv.tokens, 1), kv.keys, kv.values, attentions(kv, obs), {})
    theirs = press_of("SnapKVPress", window_size=6, kernel_size=5).score(*given)[0]
    ours_ = SnapKV(window=6, kernel=5).importance(kv, obs, 20)
    assert torch.allclose(ours_[:, :-6], theirs[:, :-6], atol=1e-6)
    theirs = press_of("TOVAPress").score(*given)[0]
    assert torch.allclose(TOVA().score(kv, obs)[:, :-1], theirs[:, :-1], atol=1e-6)
    theirs = press_of("ObservedAttentionPress").score(*given)[0]
    assert torch.allclose(AttentionReceived(average=True).score(kv, obs), theirs, atol=1e-6)


@needs_kvpress
def test_both_halves_of_compactor_equal_kvpress():
    """Its logits lack the factor, its sums are over blocks; a sketch wider than the head changes little."""
    kv, obs = chunk(GRID)
    plain = replace(obs, scaling=1.0)
    keys = obs.rope.apply_rope(kv.keys, obs.positions).repeat_interleave(GROUPS, dim=1)
    press = type(press_of("NonCausalAttnPress"))
    sums = (
        press.non_causal_chunked_attn(obs.queries, keys, 16)[0]
        .unflatten(0, (HEADS, GROUPS))
        .mean(1)
    )
    smooth = torch.nn.functional.avg_pool1d(
        sums * kv.values[0].norm(dim=-1), 3, stride=1, padding=1
    )
    assert torch.allclose(attention_scorers.non_causal(kv, plain, 16), smooth, rtol=1e-4)
    leverage = type(press_of("LeverageScorePress")).compute_leverage_scores
    theirs = leverage(kv.keys, 48)[0]
    assert torch.allclose(attention_scorers.leverage(kv, obs, 48), theirs, rtol=0.05, atol=1e-3)


@needs_kvpress
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
        press = press_of("ExpectedAttentionPress", n_future_positions=32, n_sink=0)
        theirs = press.score(module, hidden, model.apply_rope(kv.keys, at), kv.values, None, {})
    assert torch.allclose(
        ExpectedAttention(future=32).score(kv, obs), theirs[0], rtol=1e-3, atol=1e-6
    )
