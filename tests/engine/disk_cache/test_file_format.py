"""A pre-fill as a file: bit for bit in every stored form, laid where it belongs, and no damage unseen."""

import json
import math
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors import safe_open

from tests.compressors.folders import RAGGED
from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import EncodedLayer, Quantised
from x2l.compressors.stored_forms import Interleaved, Ragged, by_head
from x2l.engine.decode import ask
from x2l.engine.disk_cache.file_format import (
    DamagedFile,
    Unstorable,
    plan,
    read,
    tensor_bytes,
    write,
)
from x2l.engine.kv_store import KVStore
from x2l.engine.prefill import prefill
from x2l.kv import KV, LayerKV, PlainLayer, StoredKV

RAGGED_ONE = RAGGED[0]
LEVELS = {
    "merged": {"low": Level(ToMe(), 2), "high": Level(ToMe(), 8)},
    "whole": {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 1)},
    "quantised": {
        "low": Level(KeyNorm(), 1, Quantised(8)),
        "high": Level(ToMe(), 2, Quantised(4, 16)),
    },
    "pyramid": {"low": Level(KeyNorm(), 2, None, "pyramid"), "high": Level(KeyNorm(), 8)},
    "ragged": {"low": Level(RAGGED_ONE, 2), "high": Level(RAGGED_ONE, 4, Quantised(8, 16))},
    "ladder": {"low": Level(ToMe(), 2), "a b/c": Level(ToMe(), 4), "high": Level(ToMe(), 8)},
}
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]  # qwen3_vl has text inside chunks


@lru_cache
def prepared(family, dtype=torch.float32):
    model = ours(family, dtype)
    return model, model.prompt(frames(14), 4)


@lru_cache
def filled(family, levels, dtype=torch.float32):
    model, prompt = prepared(family, dtype)
    return prefill(model, prompt, LEVELS[levels])


def saved(path, store, facts=()):
    with path.open("wb") as file:
        write(plan(store, dict(facts)), file)
    return path


def back(path, family, dtype=torch.float32):
    model, prompt = prepared(family, dtype)
    return read(path, prompt, model.layer_devices)


def bits(tensor):
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    return tensor.clone().view(whole[tensor.element_size()]).tolist()


def differing(one, other, at=""):
    """Where two values differ in class, dtype, shape or any bit; None if nowhere."""
    if type(one) is not type(other):
        return f"{at}: {type(one)} {type(other)}"
    if isinstance(one, torch.Tensor):
        same = (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
        same = same and bits(one) == bits(other)
        return None if same else at
    if is_dataclass(one):
        parts = [(f.name, getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    elif isinstance(one, dict):
        if list(one) != list(other):
            return f"{at}: {list(one)} {list(other)}"
        parts = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, tuple):
        if len(one) != len(other):
            return f"{at}: {len(one)} {len(other)}"
        parts = [(i, *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other else at
    found = (differing(a, b, f"{at}/{name}") for name, a, b in parts)
    return next((place for place in found if place is not None), None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("levels", LEVELS)
def test_every_form_comes_back_bit_for_bit(tmp_path, family, levels):
    store = filled(family, levels)
    got, facts = back(saved(tmp_path / "a", store, {"flops": {"vision": 1}}), family)
    assert differing(store, got) is None and facts == {"flops": {"vision": 1}}
    # And so, exactly, do the logits over any mix of levels.
    model, (names, chunks) = ours(family), (list(store.levels), store.prompt.chunks)
    question = model.question("What is the colour of the star?")
    mixed = [one.mix([names[c.index % len(names)] for c in chunks]) for one in (store, got)]
    logits = [ask(model, model.load_cache(one.kv), question, one.place) for one in mixed]
    assert torch.equal(*logits) and mixed[0].nbytes == mixed[1].nbytes


def test_the_forms_of_these_levels_are_all_there_are():
    found = set()

    def look(layer):
        found.add(type(layer))
        for inner in (
            *getattr(layer, "heads", ()),
            *([layer.visual] if hasattr(layer, "visual") else []),
        ):
            look(inner)

    for levels in LEVELS:
        for kvs in filled("qwen3_vl", levels).levels.values():
            for kv in kvs:
                for layer in kv.layers:
                    look(layer)
    assert found == {PlainLayer, EncodedLayer, Interleaved, Ragged}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_comes_back(tmp_path, dtype):
    store = filled("qwen2_5_vl", "merged", dtype)
    assert store.levels["low"][0].layers[0].keys.dtype == dtype
    got, _ = back(saved(tmp_path / "a", store), "qwen2_5_vl", dtype)
    assert differing(store, got) is None


@st.composite
def layers(draw, heads=None):
    """A layer in any form, of any size, with numbers that arithmetic would not keep (nan, -0, denormal)."""
    heads = heads or draw(st.integers(1, 3))
    tokens, width, axes = (
        draw(st.integers(0, 5)),
        draw(st.sampled_from([2, 4, 6])),
        draw(st.sampled_from([1, 3])),
    )
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def any_bits(*shape, of=torch.float32):
        raw = torch.randint(0, 256, (math.prod(shape) * of.itemsize,), generator=generator)
        return raw.to(torch.uint8).view(of).view(shape)

    shared = draw(st.booleans())
    plain = LayerKV(
        any_bits(1, heads, tokens, width, of=dtype),
        any_bits(1, heads, tokens, width, of=dtype),
        any_bits(axes, 1 if shared else heads, tokens),
        any_bits(1 if shared else heads, tokens),
    )
    kind = draw(st.sampled_from(["plain", "encoded", "ragged", "interleaved", "view"]))
    if kind == "view":  # not contiguous, and of a larger tensor
        return plain.map(lambda tensor: torch.cat([tensor, tensor], dim=-1)[..., ::2])
    finite = plain.map(lambda t: t.float().nan_to_num().clamp(-9, 9).to(t.dtype))
    if kind == "encoded" and tokens:
        return Quantised(draw(st.sampled_from([2, 4, 8])), 2).encode(finite)
    if kind == "ragged":
        return Ragged(by_head(replace(finite, weights=torch.ones(1, tokens))))
    return Interleaved(plain, finite) if kind == "interleaved" else plain


@given(kvs=st.lists(layers(), min_size=1, max_size=3))
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_layers_come_back(tmp_path_factory, kvs):
    _, prompt = prepared("qwen2_5_vl")
    one = StoredKV(tuple(kvs))
    store = KVStore(
        replace(prompt, visual={}), KV((filled("qwen2_5_vl", "merged").prefix.layers[0],) * len(kvs)),
        {"low": (one, one), "high": (one,)}, "compact", torch.zeros(0, 4), (),
    )  # fmt: skip
    path = saved(tmp_path_factory.getbasetemp() / "any", store)
    got, _ = read(path, prompt, [torch.device("cpu")] * len(kvs))
    assert differing(store, got) is None


def test_bytes_of_one_number_with_a_stride_and_of_none():
    """Torch calls both contiguous and reads neither as bytes."""
    pair = torch.tensor([1.5, 2.5])
    assert bytes(tensor_bytes(pair[::2])) == bytes(tensor_bytes(pair))[:4]
    assert bytes(tensor_bytes(torch.zeros(3, 1, 0))) == b""


def test_the_file_is_one_that_safetensors_reads(tmp_path):
    store = filled("qwen3_vl", "ragged")
    # Which layers keep other numbers a head depends on the last bits of a processor's sums.
    at, low = next(
        (f"low/{chunk}/{number}", layer)
        for chunk, one in enumerate(store.levels["low"])
        for number, layer in enumerate(one.layers)
        if hasattr(layer, "visual") and hasattr(layer.visual, "heads")
    )
    with safe_open(saved(tmp_path / "a", store), "pt") as file:
        assert torch.equal(file.get_tensor(f"{at}/visual/heads/0/keys"), low.visual.heads[0].keys)
        assert torch.equal(file.get_tensor(f"{at}/text/values"), low.text.values)
        assert json.loads(file.metadata()["x2l"])["positions"] == "keep"


def test_what_two_levels_share_is_written_once(tmp_path):
    store = filled("qwen2_5_vl", "whole")
    assert store.levels["low"][0].layers[0].keys is store.levels["high"][0].layers[0].keys
    size = saved(tmp_path / "a", store).stat().st_size
    assert sum(store.nbytes("low")) < size < 2 * sum(store.nbytes("low"))


def test_each_level_lies_where_a_prefill_puts_it(tmp_path):
    """On a device for which `meta` stands: prefix and H-KVs, each layer on its own; all other levels on the host."""
    model, prompt = prepared("qwen2_5_vl")
    path = saved(tmp_path / "a", filled("qwen2_5_vl", "ladder"))
    devices = [torch.device(name) for name in ("cpu", "meta", "meta", "cpu")]
    assert len(devices) == model.shape.layers
    got, _ = read(path, prompt, devices)
    assert [layer.device for layer in got.prefix.layers] == devices
    assert all([layer.device for layer in kv.layers] == devices for kv in got.levels["high"])
    for level in ("low", "a b/c"):
        assert {layer.device.type for kv in got.levels[level] for layer in kv.layers} == {"cpu"}


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = saved(tmp_path_factory.mktemp("files") / "intact", filled("qwen2_5_vl", "merged"))
    return path.read_bytes()


def regions(data):
    """Names the stretches of a file: where damage could look different."""
    header = 8 + int.from_bytes(data[:8], "little")
    return {
        "length": (0, 8), "header": (8, header), "first": (header, header + 64),
        "middle": (header + 64, len(data) - 96), "last": (len(data) - 96, len(data) - 32),
        "checksum": (len(data) - 32, len(data)),
    }  # fmt: skip


@pytest.mark.parametrize("region", ["length", "header", "first", "middle", "last", "checksum"])
@given(part=st.floats(0, 1), bit=st.integers(0, 7))
@hypothesis_settings(max_examples=12, deadline=None)
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path_factory, intact, region, part, bit):
    start, stop = regions(intact)[region]
    at = min(int(start + part * (stop - start)), stop - 1)
    damaged = bytearray(intact)
    damaged[at] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / f"flipped-{region}"
    path.write_bytes(damaged)
    with pytest.raises(DamagedFile, match="checksum does not match"):
        back(path, "qwen2_5_vl")


@given(part=st.floats(0, 1))
@hypothesis_settings(max_examples=20, deadline=None)
def test_a_file_of_another_length_is_found(tmp_path_factory, intact, part):
    path = tmp_path_factory.getbasetemp() / "cut"
    for data in (intact[: min(int(part * len(intact)), len(intact) - 1)], intact + b"\0"):
        path.write_bytes(data)
        with pytest.raises(DamagedFile):
            back(path, "qwen2_5_vl")


def test_an_unknown_form_is_refused_by_name():
    @dataclass(frozen=True)
    class Own(LayerKV):
        pass

    store = filled("qwen2_5_vl", "merged")
    one = store.levels["low"][0].layers[0].decode()
    own = Own(one.keys, one.values, one.positions, one.weights)
    levels = {"low": (StoredKV((own,)),)}
    with pytest.raises(Unstorable, match=r"low/0/0: KVs of class .*Own cannot be kept"):
        plan(replace(store, levels=levels), {})
