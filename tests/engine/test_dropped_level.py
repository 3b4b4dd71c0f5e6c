"""A level at which chunks are dropped: nothing of them is kept, and everything else goes on as before."""

import math

import pytest
import torch

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_attention import SnapKV
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.assignment import assigned, by_bytes
from x2l.engine.decode import answer
from x2l.engine.disk_cache.file_format import plan, read, write
from x2l.engine.flops import kv_bytes
from x2l.engine.prefill import prefill
from x2l.evaluation.budgets import budget_bytes, budget_tokens

DROP = Level(KeyNorm(), math.inf)
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "internvl"]


def store_of(family, positions="keep", context="full", high=DROP):
    model = ours(family)
    levels = {"low": Level(ToMe(), 2), "high": high}
    return prefill(model, model.prompt(frames(14), 4), levels, context, positions)


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_kept_of_it_and_the_finest_is_as_without_it(family, positions):
    store, other = store_of(family, positions), store_of(family, positions, high=Level(ToMe(), 8))
    assert store.kept("high") == (0,) * 4 and store.nbytes("high") == (0,) * 4
    assert store.measured_ratio("high") == math.inf
    assert store.coarsest == "high" and store.nbytes_host == sum(store.stored_bytes("low"))
    mixed = store.mix(store.reloading((1, 3)))
    assert mixed.nbytes == store.prefix.nbytes + store.nbytes("low")[1] + store.nbytes("low")[3]
    want = other.mix([None, "low", None, "low"])
    assert mixed.place == want.place and mixed.kv.tokens == want.kv.tokens
    for one, two in zip(mixed.kv.layers, want.kv.layers, strict=True):
        assert torch.equal(one.keys, two.keys) and torch.equal(one.positions, two.positions)


@pytest.mark.parametrize("context", ["full", "own", "low"])
def test_no_pass_and_no_context_of_its_own(context):
    """`own` has one pass for each level that keeps anything."""
    model, store = ours("qwen3_vl"), store_of("qwen3_vl", context=context)
    question = model.question("What is shown?")
    for chunks in ((), (2,), (0, 1, 2, 3)):
        assert answer(model, store, question, store.reloading(chunks), 2).token_ids
    with pytest.raises(
        ValueError,
        match="context='high': chunks are dropped at this level; use full, own or one of",
    ):
        store_of("qwen3_vl", context="high")


def test_its_method_is_asked_nothing():
    """SnapKV needs queries and a window, which no chunk of two tokens has."""
    store = store_of("qwen2_5_vl", high=Level(SnapKV(window=4096), math.inf))
    assert store.kept("high") == (0,) * 4


def test_a_budget_buys_whole_chunks():
    store = store_of("internvl")
    each = store.nbytes("low")
    relevance = torch.tensor([0.1, 0.9, 0.5, 0.7])
    sizes = {level: store.nbytes(level) for level in store.levels}
    assert by_bytes(relevance, sizes, 2 * each[1], ("low", "high")) == (
        "high",
        "low",
        "high",
        "low",
    )
    full = 100 * (store.prefix.nbytes + 3 * each[1])
    assert assigned(relevance, "1%", store, full).count("low") == 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top_k", [0, 2, 4, "20%", "50%"])
def test_bytes_and_kvs_are_known_before_the_pre_fill(family, top_k):
    model, store = ours(family), store_of(family)
    prompt, levels = model.prompt(frames(14), 4), {"low": Level(ToMe(), 2), "high": DROP}
    full = kv_bytes(model.shape, prompt.tokens)
    in_order = -torch.arange(4, dtype=torch.float32)
    mixed = store.mix(assigned(in_order, top_k, store, full))
    assert budget_bytes(model, prompt, levels, top_k, ()) == mixed.nbytes
    assert budget_tokens(model, prompt, levels, top_k, ()) == mixed.kv.tokens[0]


def test_it_is_kept_on_disk(tmp_path):
    store, path = store_of("qwen3_vl"), tmp_path / "video.safetensors"
    with path.open("wb") as file:
        write(plan(store, {}), file)
    loaded, _ = read(path, store.prompt, ours("qwen3_vl").layer_devices)
    assert loaded.kept("high") == (0,) * 4 and list(loaded.levels) == ["low", "high"]
    one, two = store.mix(store.reloading((1,))), loaded.mix(loaded.reloading((1,)))
    assert all(
        torch.equal(a.keys, b.keys) for a, b in zip(one.kv.layers, two.kv.layers, strict=True)
    )
