"""Keys read from a level, and chunks left out of a mix."""

import pytest
import torch

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.head_budgets import AdaKV
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import Quantised
from x2l.engine.prefill import prefill
from x2l.kv import PlainLayer, StoredKV

FORMS = {
    "plain": Level(ToMe(), 2),
    "codes": Level(KeyNorm(), 2, Quantised(8)),
    "ragged": Level(AdaKV(KeyNorm()), 2),
    "ragged codes": Level(AdaKV(KeyNorm()), 2, Quantised(8)),
}


def store_of(family, level, positions="keep"):
    model = ours(family)
    levels = {"low": level, "high": Level(ToMe(), 8)}
    return prefill(model, model.prompt(frames(14), 4), levels, positions=positions)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", "qwen3_vl"]
)  # the latter has text inside its chunks
def test_keys_of_a_head_are_those_of_the_decoded_level(family, form):
    store = store_of(family, FORMS[form])
    for layer in (0, 3):
        decoded = [kv.layers[layer].decode() for kv in store.levels["low"]]
        for head, keys in zip((1, 0), store.keys("low", layer, (1, 0)), strict=True):
            there = [one.weights.expand(2, -1)[head] > 0 for one in decoded]
            want = [one.keys[0, head, t] for one, t in zip(decoded, there, strict=True)]
            at = [
                one.positions.expand(-1, 2, -1)[:, head, t]
                for one, t in zip(decoded, there, strict=True)
            ]
            assert torch.equal(keys.vectors, torch.cat(want))
            assert torch.equal(keys.positions, torch.cat(at, dim=1))
            assert keys.counts == tuple(len(one) for one in want)
            per_head = sum(kv.layers[layer].head_key_bytes(head) for kv in store.levels["low"])
            assert keys.streamed_bytes == per_head > 0
    assert all(keys.streamed_bytes == 0 for keys in store.keys("high", 0, (0, 1)))


@pytest.mark.parametrize("form", ["plain", "codes", "ragged"])
def test_bytes_of_a_heads_keys_are_its_share(form):
    """Keys and values of all heads are what a layer takes; keys have half where nothing is encoded."""
    layer = store_of("qwen2_5_vl", FORMS[form]).levels["low"][0].layers[0]
    keys = sum(layer.head_key_bytes(head) for head in (0, 1))
    assert keys < layer.nbytes
    if form != "codes":
        assert 2 * keys == layer.nbytes


def test_reading_keys_touches_nothing_else(monkeypatch):
    store = store_of("qwen2_5_vl", FORMS["plain"])
    read = []
    monkeypatch.setattr(PlainLayer, "decode", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(StoredKV, "decode", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(PlainLayer, "to", lambda self, device: pytest.fail("copied"))
    original = PlainLayer.head_keys
    monkeypatch.setattr(
        PlainLayer, "head_keys", lambda self, *a: read.append((self, a[0])) or original(self, *a)
    )
    store.keys("low", 2, (1,))
    expected = [(kv.layers[2], 1) for kv in store.levels["low"]]
    assert len(read) == len(expected) and all(
        a is c and b == d for (a, b), (c, d) in zip(read, expected, strict=True)
    )


def test_compact_keys_stand_where_a_cache_of_that_level_has_them():
    for family in ("internvl", "qwen3_vl", "qwen2_5_vl"):
        store = store_of(family, FORMS["plain"], "compact")
        mixed = store.mix(["low"] * 4)
        start = mixed.spans[1][0][0]
        (keys,) = store.keys("low", 1, (1,))
        layer = mixed.kv.layers[1]
        assert torch.equal(keys.vectors, layer.keys[0, 1, start:])
        assert torch.equal(keys.positions, layer.positions.expand(-1, 2, -1)[:, 1, start:])
        assert store.place("low") == mixed.place


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", ["internvl", "qwen3_vl", "qwen2_5_vl"])
def test_a_chunk_can_be_left_out_of_a_mix(family, positions):
    store = store_of(family, FORMS["plain"], positions)
    whole, without = store.mix(["low"] * 4), store.mix(["low", None, "low", "high"])
    assert without.spans[0][1][0] == without.spans[0][1][1]
    assert without.nbytes == store.prefix.nbytes + sum(
        store.nbytes(level)[chunk] for chunk, level in ((0, "low"), (2, "low"), (3, "high"))
    )
    start, stop = without.spans[2][2]
    there, here = whole.spans[2][2]
    kept = without.kv.layers[2]
    assert torch.equal(kept.keys[:, :, start:stop], whole.kv.layers[2].keys[:, :, there:here])
    if positions == "keep":
        assert without.place == whole.place
    assert store.mix([None] * 4).kv.tokens == store.prefix.tokens


@pytest.mark.parametrize("family", ["internvl", "qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("form", "positions"), [("plain", "keep"), ("plain", "compact"), ("ragged codes", "keep")]
)
def test_each_row_of_several_mixes_is_the_mix_itself(form, family, positions):
    store = store_of(family, FORMS[form], positions)
    chosen = [store.reloading((chunk,)) for chunk in range(4)] + [("low", None, "high", None)]
    rows = store.mix_rows(chosen)
    joined = list(rows.layers())
    for row, assignment in enumerate(chosen):
        mixed = store.mix(assignment)
        assert rows.places[row] == mixed.place
        assert (rows.tokens[row], rows.mean_tokens[row]) == (mixed.tokens, mixed.mean_tokens)
        for layer, at, want in zip(joined, rows.rows, mixed.kv.layers, strict=True):
            assert torch.equal(at[row, want.tokens :], torch.full_like(at[row, want.tokens :], -1))
            held = layer.take(at[row, : want.tokens])
            assert torch.equal(held.keys, want.keys) and torch.equal(held.values, want.values)
            assert bool((held.weights == want.weights).all())
            assert bool((held.positions == want.positions).all())
    alone = sum(sum(store.mix(one).kv.tokens) for one in chosen)
    assert sum(layer.tokens for layer in joined) < alone  # what rows share is there once


def test_rows_of_a_mix_need_a_level_for_every_chunk():
    store = store_of("internvl", FORMS["plain"])
    with pytest.raises(ValueError, match="must name one of the levels"):
        store.mix_rows([["low"]])


def test_a_mix_is_as_long_as_the_store_says():
    for form in ("plain", "ragged codes"):
        store = store_of("qwen3_vl", FORMS[form])
        assignment = store.reloading((1, 3))
        assert store.mixed_tokens(assignment) == sum(store.mix(assignment).tokens)
