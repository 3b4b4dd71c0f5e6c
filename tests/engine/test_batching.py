"""Answers that are decoded together are those that each gives alone."""

import math
from functools import cache

import pytest
import torch

from tests.tiny import FAMILIES, frames, ours
from x2l.compressors.base import Level
from x2l.compressors.head_budgets import AdaKV
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import Quantised
from x2l.engine.batching import MOST, Batching, groups
from x2l.engine.context_length import ContextError
from x2l.engine.decode import Request, answer, answers, ask, ask_rows
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.kv import KV
from x2l.models.interface import NotFiniteError
from x2l.models.kv_cache import Buffers

MERGED = {"low": Level(KeyNorm(), 2), "high": Level(ToMe(), 8)}
LEVELS = {
    "merged": MERGED,
    "ragged codes": {
        "low": Level(AdaKV(KeyNorm()), 2, codec=Quantised(4)),
        "high": Level(KeyNorm(), 8, codec=Quantised(8)),
    },
    "dropped": {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), math.inf)},
}
QUESTIONS = ("What?", "Which colour has the star that is seen after the ring?\nA. red\nB. blue")
CHOSEN = ((), (0,), (1, 3), (0, 1, 2, 3))  # 14 frames: the last chunk is a short one
LIMIT = {torch.float32: 2e-5, torch.float64: 1e-9}
ROUTER = {"glm4v_moe": 1e-6}  # works in fp32 whatever the weights are


@cache
def stored(family, dtype, levels="merged", positions="keep"):
    model = ours(family, dtype)
    video = model.prompt(frames(14), 4)
    store = prefill(model, video, LEVELS[levels], positions=positions)
    questions = [model.question(text) for text in QUESTIONS]
    return (
        model,
        store,
        [Request(question, store.reloading(chunks)) for question in questions for chunks in CHOSEN],
    )


def alone(model, store, requests, most):
    meters = [Meter() for _ in requests]
    said = [
        answer(model, store, request.question, request.assignment, most, meter)
        for request, meter in zip(requests, meters, strict=True)
    ]
    return said, meters


def together(model, store, requests, most, buffers=None):
    meters = [Meter() for _ in requests]
    return answers(model, store, requests, most, meters, buffers), meters


def equal(one, other, limit=2e-5):
    for a, b in zip(one, other, strict=True):
        assert (a.token_ids, a.text) == (b.token_ids, b.text)
        assert (a.kv_bytes_stored, a.kv_bytes_attended) == (b.kv_bytes_stored, b.kv_bytes_attended)
        assert a.kv_bytes_reloaded == b.kv_bytes_reloaded
        assert (a.first_logits - b.first_logits).abs().max() <= limit


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_each_alone(family, dtype, positions):
    """Questions and caches of other lengths, merged KVs among them; the cache mixed by hand for the logits."""
    model, store, requests = stored(family, dtype, positions=positions)
    one, meters = alone(model, store, requests, 5)
    several, shared = together(model, store, requests, 5)
    equal(one, several)
    assert [meter.flops for meter in meters] == [meter.flops for meter in shared]
    mixes = [store.mix(request.assignment) for request in requests]
    want = torch.stack(
        [
            ask(model, model.load_cache(mixed.kv), request.question, mixed.place)
            for request, mixed in zip(requests, mixes, strict=True)
        ]
    )
    rows = store.mix_rows([request.assignment for request in requests])
    cache = model.load_rows(rows.layers(), rows.rows, 64)
    got = ask_rows(model, cache, [request.question for request in requests], rows.places)
    assert got.dtype == dtype and want.std() > 0.1
    assert (got - want).abs().max() <= max(LIMIT[dtype], ROUTER.get(family, 0))


@pytest.mark.parametrize("levels", ["ragged codes", "dropped"])
def test_codes_ragged_heads_and_dropped_chunks_are_decoded_together(levels):
    model, store, requests = stored("qwen2_5_vl", torch.float64, levels)
    one, meters = alone(model, store, requests, 3)
    several, shared = together(model, store, requests, 3)
    equal(one, several, 1e-6)
    assert [meter.flops for meter in meters] == [meter.flops for meter in shared]
    if levels == "ragged codes":
        assert all(meter.flops["reload"] > 0 for meter in shared)


def test_every_row_ends_at_its_own_end_token(monkeypatch):
    model, store, requests = stored("qwen2_5_vl", torch.float64)
    free, _ = alone(model, store, requests, 6)
    ends = frozenset({free[0].token_ids[1], free[5].token_ids[3]})
    monkeypatch.setattr(type(model), "end_tokens", property(lambda self: ends))
    one, _ = alone(model, store, requests, 6)
    assert len({len(said.token_ids) for said in one}) > 1
    equal(one, together(model, store, requests, 6)[0])


def test_seconds_are_shared_out_and_peaks_are_those_of_all():
    model, store, requests = stored("qwen2_5_vl", torch.float64)
    _, meters = together(model, store, requests, 3)
    decode = [meter.seconds["decode"] for meter in meters]
    flops = [meter.flops["decode"] for meter in meters]
    assert decode == pytest.approx([sum(decode) * own / sum(flops) for own in flops])
    kvs = [store.mixed_tokens(request.assignment) for request in requests]
    reload = [meter.seconds["reload"] for meter in meters]
    assert reload == pytest.approx([sum(reload) * own / sum(kvs) for own in kvs])
    assert len({meter.peaks["decode"] for meter in meters}) == 1


def test_buffers_serve_one_batch_after_another():
    model, store, requests = stored("qwen2_5_vl", torch.float64)
    buffers = Buffers()
    for some in (requests, requests[:3], requests[2:]):
        equal(alone(model, store, some, 3)[0], together(model, store, some, 3, buffers)[0])
    held = [tensor.data_ptr() for tensor in buffers._flat.values()]
    together(model, store, requests, 3, buffers)
    assert held == [tensor.data_ptr() for tensor in buffers._flat.values()]


def test_a_cache_mixed_by_hand_has_the_rows_of_the_loaded_one():
    model, store, requests = stored("qwen3_vl", torch.float64)
    rows = store.mix_rows([request.assignment for request in requests[:4]])
    cache = model.load_rows(rows.layers(), rows.rows)
    for row, request in enumerate(requests[:4]):
        mixed = store.mix(request.assignment)
        for layer, want in zip(cache.layers, KV(tuple(mixed.layers())).layers, strict=True):
            keys, values = layer.tail(0)
            assert torch.equal(keys[row, :, : want.tokens], model.rotate(want)[0])
            assert torch.equal(values[row, :, : want.tokens], want.values[0])


def test_groups_hold_what_is_of_like_length():
    lengths = [100, 30, 90, 51, 49, 12, 25]
    assert groups(lengths, 64, None) == [[0, 2, 3], [4, 1, 6], [5]]
    assert groups(lengths, 2, None) == [[0, 2], [3, 4], [1, 6], [5]]
    assert groups(lengths, 64, 200) == [[0, 2], [3, 4, 1], [6], [5]]
    assert groups([300, 200], 64, 100) == [[0], [1]]
    assert groups([], 64, None) == []


@pytest.mark.parametrize(
    ("error", "smaller"),
    [(MemoryError(), True), (NotFiniteError("no numbers"), False), (ContextError("long"), False)],
)
def test_what_fails_together_is_tried_in_halves(error, smaller):
    """All that do not fail alone are there; once memory ran out batches stay small."""
    tried = []

    def run(indices):
        tried.append(indices)
        if 5 in indices or (smaller and len(indices) > 2):
            raise error
        return [10 * index for index in indices]

    batching = Batching("auto")
    assert batching.most == MOST
    made = batching.run(run, [1] * 8, None)
    assert made == {index: 10 * index for index in range(8) if index != 5}
    assert (batching.most < 8) == smaller
    tried.clear()
    batching.run(run, [1] * 8, None)
    assert (max(map(len, tried)) < 8) == smaller


def test_other_errors_pass():
    def run(indices):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        Batching(4).run(run, [1, 1], None)
