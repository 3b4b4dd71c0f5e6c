"""Forms in which layers wait: text beside compressed tokens, heads of different length, quantised levels."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import EncodedLayer, Quantised
from x2l.compressors.stored_forms import Interleaved, Ragged, by_head, interleaved
from x2l.engine.decode import answer, ask
from x2l.engine.flops import kv_bytes
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.kv import Compact, LayerKV, PlainLayer, concat_layers

THREE = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]
QUESTION = "What is the colour of the star?"


def layer(tokens, heads=2, shared=True, seed=0, start=0.0, step=1.0):
    """Positions rise by `step`; with `shared=False` each head has its own."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 1, heads, tokens, 8, generator=generator)
    at = (start + step * torch.arange(tokens)).expand(3, 1, -1)
    if not shared:
        at = at + 0.25 * torch.arange(heads)[None, :, None]
    weights = 1 + torch.rand(at.shape[1], tokens, generator=generator)
    return LayerKV(keys, values, at, weights)


def equal(one, other):
    heads = one.keys.shape[1]
    same = torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
    places = (
        torch.equal(a.expand(*a.shape[:-2], heads, -1), b.expand(*b.shape[:-2], heads, -1))
        for a, b in ((one.positions, other.positions), (one.weights, other.weights))
    )
    return same and all(places)


def ragged(lengths=(5, 2, 7)):
    """Three heads of different length, and each of them alone."""
    alone = tuple(layer(n, heads=1, seed=n) for n in lengths)
    return Ragged(alone), alone


@pytest.mark.parametrize("shared", [True, False])
def test_text_and_tokens_interleave_by_time(shared):
    text, visual = layer(3, start=2.0, step=4.0), layer(9, shared=shared, seed=1)
    stored = Interleaved(text, visual)
    whole = stored.decode()
    assert equal(whole, interleaved(text, visual))
    assert (whole.positions[0].diff(dim=-1) >= 0).all()
    assert torch.equal(stored.decoded_positions().expand_as(whole.positions), whole.positions)
    assert stored.tokens == whole.tokens == 12 and stored.kv_count == 24
    assert stored.nbytes == whole.nbytes


@pytest.mark.parametrize("shared", [True, False])
def test_moving_parts_is_moving_the_whole(shared):
    text, visual = layer(3, start=2.0, step=4.0), layer(9, shared=shared, seed=1)
    stored = Interleaved(text, visual)
    to = stored.decoded_positions() * 0.5 + 7
    whole = stored.decode()
    assert equal(stored.with_positions(to).decode(), replace(whole, positions=to.expand(3, 2, -1)))
    positions = stored.decoded_positions()
    assert torch.equal(stored.with_positions(positions).decoded_positions(), positions)


def test_heads_of_different_length_are_padded_with_what_nobody_sees():
    stored, alone = ragged()
    whole = stored.decode()
    assert whole.keys.shape == (1, 3, 7, 8) and stored.tokens == 7 and stored.kv_count == 14
    assert stored.nbytes == sum(head.nbytes for head in alone) < whole.nbytes
    for head, one in enumerate(alone):
        assert torch.equal(whole.keys[0, head, : one.tokens], one.keys[0, 0])
        assert torch.equal(whole.weights[head, : one.tokens], one.weights[0])
        assert (whole.weights[head, one.tokens :] == 0).all()
        assert whole.positions.isfinite().all() and whole.keys.isfinite().all()
    assert torch.equal(stored.decoded_positions(), whole.positions)
    back = by_head(whole)
    assert all(equal(a, b) for a, b in zip(back, alone, strict=True))
    moved = stored.with_positions(stored.decoded_positions() + 3)
    assert torch.equal(moved.decode().positions, whole.positions + 3)


def test_padding_changes_no_answer():
    """Ragged heads against the same heads, each filled up with a KV of the prompt that weighs next to nothing."""
    model = ours("qwen2_5_vl", torch.float64)
    store = prefill(model, model.prompt(frames(8), 4), {"high": Level(KeyNorm(), 4)})
    mixed = store.mix(["high", "high"])
    question = model.question(QUESTION)
    uneven, light = [], []
    for one in mixed.kv.layers:
        apart = by_head(one)
        short = apart[1].take(torch.arange(one.tokens - 3))
        uneven.append(Ragged((apart[0], short)).decode())
        weights = one.weights.double().expand(2, -1).clone()
        weights[1, -3:] = 1e-300
        light.append(replace(one, weights=weights))
    got = ask(
        model, model.load_cache(replace(mixed.kv, layers=tuple(uneven))), question, mixed.place
    )
    want = ask(
        model, model.load_cache(replace(mixed.kv, layers=tuple(light))), question, mixed.place
    )
    all_ = ask(model, model.load_cache(mixed.kv), question, mixed.place)
    assert torch.allclose(got, want, atol=1e-9) and not torch.allclose(got, all_, atol=1e-4)


@pytest.mark.parametrize(
    "stored",
    [
        layer(5),
        PlainLayer.of(layer(5)),
        Interleaved(layer(3, start=2.0), layer(9)),
        ragged()[0],
        Interleaved(layer(3, heads=3), ragged()[0]),
        Quantised(4).encode(layer(9)),
        Interleaved(layer(3), Quantised(8).encode(layer(9))),
        Ragged(tuple(Quantised(4).encode(head) for head in ragged()[1])),
    ],
    ids=[
        "decoded",
        "plain",
        "interleaved",
        "ragged",
        "ragged-text",
        "int4",
        "int8-text",
        "int4-ragged",
    ],
)
def test_every_form_travels_as_it_is(stored):
    tensors = []
    there = stored.map(lambda tensor: tensors.append(tensor) or tensor.clone())
    assert type(there) is type(stored) and there.nbytes == stored.nbytes
    assert equal(there.decode(), stored.decode())
    assert stored.to("meta").device.type == "meta" and stored.device.type == "cpu"
    assert stored.to("meta").tokens == stored.tokens == stored.decode().tokens
    assert sum(tensor.nbytes for tensor in tensors) == stored.stored_bytes > stored.nbytes
    plain = layer(4, heads=stored.decode().keys.shape[1])
    assert equal(concat_layers([plain, stored]), concat_layers([plain, stored.decode()]))


def encoded(stored):
    return isinstance(getattr(stored, "visual", stored), EncodedLayer)


def quantised(family, codec, context="full", ratio=4, positions="keep", dtype=torch.float32):
    model = ours(family, dtype)
    levels = {"low": Level(KeyNorm(), 2, codec), "high": Level(ToMe(), ratio, codec)}
    prompt = model.prompt(frames(14), 4)
    return prefill(model, prompt, levels, context=context, positions=positions)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", THREE)
def test_a_quantised_level_is_the_plain_one_encoded(family, bits):
    """The same KVs, kept and merged as without a codec; text inside chunks untouched; bytes as stored."""
    codec = Quantised(bits, 16)
    plain, small = quantised(family, None), quantised(family, codec)
    for level in ("low", "high"):
        assert small.kept(level) == plain.kept(level)
        labels = sum(chunk.tokens - chunk.visual_tokens for chunk in plain.prompt.chunks)
        text = kv_bytes(ours(family).shape, labels)
        assert sum(small.nbytes(level)) - text < 0.6 * (sum(plain.nbytes(level)) - text)
        for chunk, one, other in zip(
            plain.prompt.chunks, plain.levels[level], small.levels[level], strict=True
        ):
            want = one.layers[-1].decode()
            got = other.layers[-1].decode()
            assert torch.equal(got.positions, want.positions)
            step = (want.keys.amax() - want.keys.amin()) / (2**bits - 1)
            assert 0 < (got.keys - want.keys).abs().max() <= step
            apart = isinstance(other.layers[-1], Interleaved)
            assert apart is not bool(chunk.is_visual.all())
            if apart:
                text = other.layers[-1].text
                assert text.tokens == chunk.tokens - chunk.visual_tokens
                found = (want.keys[0, 0][:, None] == text.keys[0, 0][None]).all(-1).sum()
                assert found == text.tokens


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", THREE)
def test_later_chunks_see_the_error_of_a_quantised_context(family, positions):
    """A pass that attends to the decoded level equals one whose compressor hands on the decoded KVs itself."""

    class Lossy(ToMe):
        def compress(self, kv, obs, keep):
            return codec.encode(super().compress(kv, obs, keep)).decode()

    codec, model = Quantised(4, 16), ours(family)
    prompt = model.prompt(frames(14), 4)
    settings = {"context": "high", "positions": positions}
    small = prefill(model, prompt, {"high": Level(ToMe(), 4, codec)}, **settings)
    lossy = prefill(model, prompt, {"high": Level(Lossy(), 4)}, **settings)
    plain = prefill(model, prompt, {"high": Level(ToMe(), 4)}, **settings)
    assert all(encoded(one) for kv in small.levels["high"] for one in kv.layers)
    mixed = [store.mix(["high"] * 4) for store in (small, lossy, plain)]
    question = model.question(QUESTION)
    got, want, exact = (ask(model, model.load_cache(one.kv), question, one.place) for one in mixed)
    assert torch.equal(got, want) and not torch.allclose(got, exact, atol=1e-4)
    assert mixed[0].place == mixed[1].place
    if positions == "keep":  # and not what they would have seen of the whole chunks
        full = prefill(model, prompt, {"high": Level(ToMe(), 4, codec)})
        first, later = (
            [store.levels["high"][index].layers[-1].decode().values for store in (small, full)]
            for index in (0, 3)
        )
        assert torch.equal(*first) and not torch.allclose(*later, atol=1e-3)
    assert mixed[0].nbytes < mixed[1].nbytes == mixed[1].kv.nbytes == mixed[0].kv.nbytes


def test_bytes_of_an_answer_are_those_stored():
    model, store = ours("qwen2_5_vl"), quantised("qwen2_5_vl", Quantised(8, 16))
    said = answer(model, store, model.question(QUESTION), store.reloading((0, 2)), max_new_tokens=2)
    codec, shape = Quantised(8, 16), model.shape
    per_layer = sum(
        codec.nbytes(shape.kv_heads, store.kept(level)[i], shape.head_dim)
        for i, level in enumerate(["low", "high", "low", "high"])
    )
    prefix = kv_bytes(shape, store.prompt.prefix)
    mixed = store.mix(store.reloading((0, 2)))
    assert mixed.nbytes == prefix + shape.layers * per_layer
    assert said.kv_bytes_stored == mixed.stored_bytes < said.kv_bytes_attended == mixed.kv.nbytes
    assert said.kv_bytes_reloaded == sum(store.stored_bytes("low")[i] for i in (0, 2))


def test_decoding_a_codec_is_counted_where_it_is_re_loaded():
    """Two operations for each number of keys and values that a codec stored; none where there is no codec."""
    model = ours("qwen2_5_vl")
    for codec, each in ((Quantised(8, 16), 2), (None, 0)):
        store, meter = quantised("qwen2_5_vl", codec), Meter()
        answer(model, store, model.question(QUESTION), store.reloading((0, 2)), 2, meter)
        kept = sum(store.kept(name)[i] for i, name in enumerate(["low", "high", "low", "high"]))
        numbers = kv_bytes(model.shape, kept) // model.shape.kv_itemsize
        assert meter.flops["reload"] == each * numbers


@pytest.mark.parametrize(
    ("numbers", "kind", "each"),
    [
        ([[7.0, 7.0, 7.0]], torch.uint8, 0),
        ([[900.0, 905.0, 1155.0]], torch.uint8, 1),
        ([[0.0, 3.0, 300.0], [5.0, 5.0, 5.0]], torch.int16, 2),
        ([[1.0, 40000.0]], torch.int32, 4),
        ([[0.5, 2.0, 3.25]], torch.float32, 4),
        ([[0.0, 2.0**23 + 1]], torch.float32, 4),
    ],
)
def test_positions_and_weights_take_few_bytes_and_come_back_exactly(numbers, kind, each):
    numbers = torch.tensor(numbers)
    stored = Compact.of(numbers)
    assert torch.equal(stored.numbers(), numbers) and stored.steps.dtype == kind
    start = 0 if kind == torch.float32 else 4
    assert stored.nbytes == len(numbers) * (start + (each * numbers.shape[1] or 1))
    assert torch.equal(stored.map(torch.clone).numbers(), numbers)
    nothing = Compact.of(numbers[:, :0])
    assert nothing.nbytes == 0 and nothing.numbers().shape == (len(numbers), 0)


def test_ratio_1_is_quantised_too():
    model = ours("llava_onevision")
    levels = {"high": Level(KeyNorm(), 1, Quantised(8))}
    store = prefill(model, model.prompt(frames(8), 4), levels)
    assert store.measured_ratio("high") == 1
    assert all(encoded(one) for kv in store.levels["high"] for one in kv.layers)


def test_a_level_that_would_not_get_smaller_is_refused_before_anything_runs():
    model = ours("qwen2_5_vl", torch.bfloat16)
    levels = {"high": Level(KeyNorm(), 64, Quantised(8))}
    with pytest.raises(ValueError, match="codec.group=32: 1 kept KVs a chunk.*no codec for this"):
        prefill(model, model.prompt(frames(8), 4), levels)
