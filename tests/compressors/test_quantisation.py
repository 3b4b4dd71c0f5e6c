"""Quantised KVs: what they lose, what they weigh, what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from x2l.compressors.quantisation import BITS, CHANNELS, TOKENS, EncodedLayer, Quantised, packed
from x2l.kv import LayerKV, PlainLayer

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def numbers(shape, dtype=torch.float32, seed=0, spread=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * spread + offset).to(
        dtype
    )


def layer(heads=2, tokens=45, width=16, dtype=torch.float32):
    keys, values = (numbers((1, heads, tokens, width), dtype, seed) for seed in (0, 1))
    at = torch.arange(tokens, dtype=torch.float32).expand(3, 1, -1)
    return LayerKV(keys, values, at, torch.arange(1.0, tokens + 1)[None])


def grouped(x, group, axis):
    """Each group as a tensor of its own."""
    return [part for part in x.movedim(axis, -1).split(group, dim=-1)]


@given(
    heads=st.integers(1, 3),
    tokens=st.integers(1, 70),
    width=st.integers(1, 40),
    bits=st.sampled_from(BITS),
    group=st.integers(2, 48),
    axis=st.sampled_from((TOKENS, CHANNELS)),
    dtype=st.sampled_from(DTYPES),
    spread=st.sampled_from((0.0, 1e-6, 1.0, 100.0)),
    offset=st.sampled_from((0.0, -3.3, 200.1)),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_number_comes_back_within_half_a_step(
    heads, tokens, width, bits, group, axis, dtype, spread, offset
):
    """Half of (largest - least) / levels of its own group, whatever the shape; and rounding to the dtype."""
    x = numbers((1, heads, tokens, width), dtype, tokens, spread, offset)
    back = packed(x, bits, group, axis).unpacked()
    assert back.shape == x.shape and back.dtype == dtype
    exact = x.double()
    for was, now in zip(
        grouped(exact, group, axis), grouped(back.double(), group, axis), strict=True
    ):
        least, most = was.amin(-1, keepdim=True), was.amax(-1, keepdim=True)
        # Ends and steps are fp16, rounded outwards by at most two units in its last place.
        least_stored = least - (least.abs() * 2**-9 + 2**-23)
        step = (most - least_stored) / (2**bits - 1)
        step = step * (1 + 2**-9) + 2**-23
        rounding = (
            (was.abs() + (most - least))
            * 4
            * torch.finfo(dtype if dtype != torch.float64 else torch.float32).eps
        )
        assert ((now - was).abs() <= step / 2 + rounding).all()


@given(
    heads=st.integers(1, 3),
    tokens=st.integers(1, 70),
    width=st.integers(1, 40),
    bits=st.sampled_from(BITS),
    group=st.integers(2, 48),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_bytes_are_those_of_the_tensors(heads, tokens, width, bits, group, dtype):
    plain, codec = layer(heads, tokens, width, dtype), Quantised(bits, group)
    stored = codec.encode(plain)
    want = codec.nbytes(heads, tokens, width)
    if want >= plain.nbytes:
        assert isinstance(stored, PlainLayer) and stored.keys is plain.keys
        return
    tensors = []
    stored.map(lambda tensor: tensors.append(tensor) or tensor)
    assert len(tensors) == 10
    assert stored.nbytes == want == sum(tensor.nbytes for tensor in tensors[:6]) < plain.nbytes
    assert stored.stored_bytes == sum(tensor.nbytes for tensor in tensors)
    assert stored.tokens == tokens
    per_row = math.ceil(width * bits / 8)
    assert stored.keys.codes.numel() == stored.values.codes.numel() == heads * tokens * per_row


def test_numbers_on_the_grid_come_back_exactly():
    """Integers between 0 and 15 are their own 4-bit codes; two lie in a byte, the first channel's in the low half."""
    x = torch.arange(16.0).view(1, 1, 1, 16)
    stored = packed(x, 4, 16, CHANNELS)
    assert stored.codes.flatten().tolist() == [2 * n + ((2 * n + 1) << 4) for n in range(8)]
    assert torch.equal(stored.unpacked(), x)
    odd = packed(
        x[..., :15] + 1, 4, 15, CHANNELS
    )  # 15 codes in 8 bytes; zero is 1, the step 14 / 15
    assert odd.codes.shape[-1] == 8 and (odd.codes.flatten()[-1] >> 4) == 0
    assert (odd.unpacked() - x[..., :15] - 1).abs().max() <= 14 / 15 / 2 + 1e-3


def test_constant_groups_come_back_exactly_where_fp16_holds_them():
    x = torch.tensor([0.0, -1.5, 640.0, 2.0**-20])[None, None, None].expand(1, 1, 5, 4)
    assert torch.equal(packed(x, 4, 32, TOKENS).unpacked(), x)


@pytest.mark.parametrize("bits", BITS)
def test_a_large_channel_costs_keys_nothing_and_a_large_token_costs_values_nothing(bits):
    """Why keys are grouped along tokens and values along channels (KIVI, section 3)."""
    plain = layer(tokens=64, dtype=torch.float64)
    keys, values = plain.keys.clone(), plain.values.clone()
    keys[..., 3] *= 1000
    values[:, :, 7] *= 1000
    loud = Quantised(bits).encode(replace(plain, keys=keys, values=values)).decode()
    calm = Quantised(bits).encode(plain).decode()
    others = torch.arange(16) != 3
    assert torch.equal(loud.keys[..., others], calm.keys[..., others])
    rows = torch.arange(64) != 7
    assert torch.equal(loud.values[:, :, rows], calm.values[:, :, rows])
    wrong = packed(keys, bits, 32, CHANNELS).unpacked()
    assert (wrong - keys)[..., others].abs().max() > 5 * (calm.keys - plain.keys).abs().max()


def test_fewer_bits_lose_more_and_weigh_less():
    plain = layer(tokens=64)
    stored = {bits: Quantised(bits).encode(plain) for bits in BITS}
    lost = {bits: (kv.decode().keys - plain.keys).square().mean() for bits, kv in stored.items()}
    assert lost[2] > 10 * lost[4] > 100 * lost[8] > 0
    assert stored[2].nbytes < stored[4].nbytes < stored[8].nbytes < plain.nbytes


def test_only_keys_and_values_change():
    plain = layer()
    stored = Quantised(4).encode(plain)
    assert isinstance(stored, EncodedLayer)
    back = stored.decode()
    assert torch.equal(back.positions, plain.positions) and torch.equal(back.weights, plain.weights)
    assert back.keys.shape == plain.keys.shape and not torch.equal(back.keys, plain.keys)
    elsewhere = stored.with_positions(plain.positions + 5)
    assert torch.equal(elsewhere.decode().positions, plain.positions + 5)
    assert torch.equal(elsewhere.decode().keys, back.keys)
    assert torch.equal(stored.map(torch.clone).decode().values, back.values)


def test_heads_are_apart():
    plain = layer(heads=3)
    whole = Quantised(4).encode(plain).decode()
    for head in range(3):
        one = replace(plain, keys=plain.keys[:, [head]], values=plain.values[:, [head]])
        alone = Quantised(4).encode(one).decode()
        assert torch.equal(alone.keys[0, 0], whole.keys[0, head])
        assert torch.equal(alone.values[0, 0], whole.values[0, head])


def test_too_few_kvs_stay_as_they_are_and_a_level_of_them_is_refused():
    one = layer(tokens=1, width=128, dtype=torch.bfloat16)
    assert Quantised(4).encode(one).values is one.values
    with pytest.raises(ValueError, match=r"codec.group=32: 1 kept KVs a chunk of 1024 bytes would"):
        Quantised(4).check(2, 1, 128, 2)
    Quantised(4).check(2, 2, 128, 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bits": 3}, r"codec.bits=3: must be one of \(2, 4, 8\)"),
        ({"group": 1}, "codec.group=1: must be >= 2"),
    ],
)
def test_wrong_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Quantised(**bad)


@pytest.mark.parametrize("number", [1e8, -1e5, float("inf"), float("nan")])
def test_numbers_beyond_fp16_are_refused(number):
    plain = layer()
    keys = plain.keys.clone()
    keys[0, 1, 3, 5] = number
    with pytest.raises(ValueError, match="cannot be quantised.*65504; store this level without"):
        Quantised(8).encode(replace(plain, keys=keys))
