"""Copies to the host, and KVs whose layers lie on different devices.

There is no second device on an ordinary machine: `meta` stands in for one (it has shapes, no values), and the CUDA
copies are checked for what they ask of streams, in which order.
"""

from dataclasses import replace

import pytest
import torch

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine import host_copy as transfer
from x2l.engine.host_copy import copies_done, to_host
from x2l.engine.prefill import prefill
from x2l.kv import KV, LayerKV, concat

DEVICES = ("cpu", "cpu", "meta", "meta")


def layer(tokens, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 1, 2, tokens, 4, generator=generator)
    positions = torch.arange(tokens, dtype=torch.float32)[None, None]
    return LayerKV(keys, values, positions, torch.ones(1, tokens)).to(device)


def spread(kv, devices=DEVICES):
    return KV(tuple(one.to(device) for one, device in zip(kv.layers, devices, strict=True)))


def devices(kv):
    return tuple(
        {t.device.type for t in (x.keys, x.values, x.positions, x.weights)} for x in kv.layers
    )


def test_joined_layers_lie_where_the_first_part_has_them():
    first = KV((layer(3), layer(3, device="meta")))
    second, third = KV((layer(2, 1), layer(4, 1))), KV((layer(1, 2, "cpu"), layer(1, 2, "meta")))
    joined = concat([first, second, third])
    assert devices(joined) == ({"cpu"}, {"meta"}) and joined.tokens == (6, 8)
    want = torch.cat([part.layers[0].keys for part in (first, second, third)], dim=2)
    assert torch.equal(joined.layers[0].keys, want)


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_mixing_keeps_each_layer_on_its_device(positions):
    model = ours("qwen2_5_vl")
    levels = {"low": Level(KeyNorm(), 2), "high": Level(ToMe(), 8)}
    store = prefill(model, model.prompt(frames(14), 4), levels, positions=positions)
    high = tuple(spread(kv) for kv in store.levels["high"])  # L-KVs wait on the host
    two = replace(
        store, prefix=spread(store.prefix), levels={"low": store.levels["low"], "high": high}
    )
    assignment = ["low", "high", "high", "low"]
    mixed, plain = two.mix(assignment), store.mix(assignment)
    assert devices(mixed.kv) == ({"cpu"}, {"cpu"}, {"meta"}, {"meta"})
    assert mixed.kv.tokens == plain.kv.tokens and mixed.place == plain.place
    for got, want in zip(mixed.kv.layers[:2], plain.kv.layers[:2], strict=True):
        assert torch.equal(got.keys, want.keys) and torch.equal(got.positions, want.positions)


def test_a_cache_is_filled_on_the_device_of_each_layer():
    model = ours("qwen2_5_vl")
    keys, values = torch.randn(2, 1, 2, 5, 8)
    weights = torch.tensor([[1.0, 1.0, 3.0, 1.0, 2.0]])
    at = torch.arange(5.0).expand(3, 1, -1)
    kv = KV(tuple(LayerKV(keys.to(d), values.to(d), at, weights) for d in DEVICES))
    cache = model.load_cache(kv, reserve=3)
    assert [one.keys.device.type for one in cache.layers] == list(DEVICES)
    assert [bias.device.type for bias in cache.bias] == list(DEVICES)
    assert cache.lengths == (5,) * 4
    cache.update(keys[:, :, :1].to("meta"), values[:, :, :1].to("meta"), 3)
    assert cache.lengths == (5, 5, 5, 6)


def test_on_the_host_nothing_is_copied():
    kv = KV((layer(3),))
    same = to_host(kv)
    assert same.layers[0].keys.data_ptr() == kv.layers[0].keys.data_ptr()
    copies_done()  # nothing to wait for


class Stream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def synchronize(self):
        self.log.append(f"host waits for {self.name}")

    def __enter__(self):
        self.log.append(f"into {self.name}")

    def __exit__(self, *error):
        self.log.append("out")


def test_a_gpus_kvs_are_copied_by_a_stream_of_their_own(monkeypatch):
    """The order that makes it right: computed before copied, memory held until copied, read after all have arrived."""
    log = []
    main, side = Stream(log, "main"), Stream(log, "side")
    monkeypatch.setattr(transfer, "_streams", {})
    monkeypatch.setattr(transfer, "_copies_by_stream", lambda device: True)
    monkeypatch.setattr(
        transfer, "_pinned", lambda like: log.append("pinned") or like.new_empty(like.shape)
    )
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: log.append(f"held for {stream.name}")
    )
    kv = KV((layer(3), layer(4, 1)))
    host = to_host(kv)
    one = ["side waits for main", "into side", *["pinned", "held for side"] * 4, "out"]
    assert log == one * 2
    for got, want in zip(host.layers, kv.layers, strict=True):
        assert torch.equal(got.keys, want.keys) and torch.equal(got.weights, want.weights)
        assert got.keys.data_ptr() != want.keys.data_ptr()
    copies_done()
    assert log[-1] == "host waits for side"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kvs_come_back_from_pinned_memory_as_they_were():
    kv = KV((layer(2000, device="cuda"), layer(3000, 1, "cuda")))
    host = to_host(kv)
    copies_done()
    back = [one.to("cuda") for one in host.layers]
    for got, want, there in zip(back, kv.layers, host.layers, strict=True):
        assert there.keys.is_pinned() and there.keys.device.type == "cpu"
        assert torch.equal(got.keys, want.keys) and torch.equal(got.positions, want.positions)
