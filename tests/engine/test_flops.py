"""Closed forms against torch's own FLOP counter and against tensor sizes."""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import PAIRS, frames, ours
from x2l.compressors.base import Level, Sizes
from x2l.compressors.merging import ToMe, matching
from x2l.compressors.pooling import MeanPool
from x2l.compressors.pruning_by_attention import TaskAware
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import Quantised
from x2l.engine.decode import answer
from x2l.engine.flops import kv_bytes, prefill_flops
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.engine.stages import STAGES
from x2l.selectors.attention import AttentionSelector
from x2l.selectors.base import Query


def _cpu_attention_flops(q, k, v, *args, out_val=None, **kwargs):
    batch, heads, queries, width = q.shape
    return 2 * batch * heads * queries * k.shape[2] * (width + v.shape[-1])


_cpu_attention_flops._get_raw = True


def counter():
    """torch's counter knows no formula for the CPU attention kernel and would count it as nothing."""
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={op: _cpu_attention_flops})


def countable(family):
    """A model all of whose products the counter knows: experts, which run one by one in fp64 only, among them."""
    return ours(family, torch.float64)


LEVELS = {"low": Level(KeyNorm(), 2), "high": Level(MeanPool(), 8)}


@pytest.mark.parametrize(
    ("family", "context", "size"),
    [(family, "full", (48, 80)) for family in PAIRS]
    # Contexts differ in what the decoder sees, whatever the vision tower; Qwen3-VL has text inside chunks.
    + [
        (family, name, (64, 64))
        for family in ("qwen2_5_vl", "qwen3_vl")
        for name in ("high", "own")
    ],
)
def test_vision_and_prefill_flops_match_the_counter(family, context, size):
    model, meter = countable(family), Meter()
    prompt = model.prompt(frames(6, size=size), 4)  # the counter is slow
    with counter() as counted:
        prefill(model, prompt, LEVELS, context=context, meter=meter)
    ours_ = meter.flops["vision"] + meter.flops["prefill"]
    assert ours_ == pytest.approx(counted.get_total_flops(), rel=1e-3)
    assert meter.flops["vision"] > 0 and meter.flops["decode"] == 0


@pytest.mark.parametrize("family", PAIRS)
def test_decode_flops_match_the_counter(family):
    model, meter = countable(family), Meter()
    store = prefill(model, model.prompt(frames(8), 4), LEVELS)
    question = model.question("What is the colour of the star?")
    with counter() as counted:
        said = answer(model, store, question, store.reloading((0,)), max_new_tokens=5, meter=meter)
    assert len(said.token_ids) == 5
    assert meter.flops["decode"] == pytest.approx(counted.get_total_flops(), rel=1e-3)


def test_selection_flops_match_the_counter():
    model, meter = ours("qwen2_5_vl"), Meter()
    store = prefill(model, model.prompt(frames(8), 4), LEVELS)
    query = Query(model.question("What is the colour of the star?"), "q")
    with counter() as counted:
        AttentionSelector().relevance(query, store, model, meter)
    assert meter.flops["selection"] == pytest.approx(counted.get_total_flops(), rel=1e-3)


def test_matching_flops_match_the_counter():
    keys = torch.randn(2, 33, 8)
    with counter() as counted:
        matching(keys, 10)
    scale = 4 * 2 * 33 * 8  # averaging, which the counter does not see
    assert ToMe().flops(Sizes(2, 8, 33, 23, 8)) - scale == counted.get_total_flops()


def test_bytes_in_closed_form_equal_the_tensors():
    model = ours("qwen2_5_vl")
    store = prefill(model, model.prompt(frames(14), 4), LEVELS)
    for level in ("low", "high"):
        for part, kept in zip(store.levels[level], store.kept(level), strict=True):
            assert part.nbytes == kv_bytes(model.shape, kept)
            assert part.nbytes < part.stored_bytes == tensor_bytes(part) < 1.25 * part.nbytes
    mixed = store.mix(["low", "high", "high", "low"])
    tokens = (
        store.prompt.prefix
        + sum(store.kept("low")[i] for i in (0, 3))
        + sum(store.kept("high")[i] for i in (1, 2))
    )
    assert mixed.kv.nbytes == kv_bytes(model.shape, tokens)
    said = answer(model, store, model.question("x"), store.reloading((0, 3)), max_new_tokens=1)
    assert said.kv_bytes_attended == mixed.kv.nbytes
    assert said.kv_bytes_stored == mixed.stored_bytes == sum(map(tensor_bytes, mixed.parts))
    assert said.kv_bytes_reloaded == sum(store.stored_bytes("low")[i] for i in (0, 3))
    assert model.load_cache(mixed.kv).nbytes == mixed.kv.nbytes


def tensor_bytes(part):
    """Of every tensor in it, positions and weights among them."""
    seen = []
    for layer in part.layers:
        layer.map(lambda tensor: seen.append(tensor.nbytes) or tensor)
    return sum(seen)


@pytest.mark.parametrize("context", ["full", "low", "high", "own"])
def test_flops_of_a_pre_fill_are_known_before_it(context):
    """With a codec, a probe text, uneven layers and text inside chunks."""
    model = ours("qwen3_vl")
    low = Level(TaskAware(), 2, Quantised(8))
    levels = {"low": low, "high": Level(KeyNorm(), 6, layers="pyramid")}
    prompt, meter = model.prompt(frames(14), 4), Meter()
    prefill(model, prompt, levels, context=context, meter=meter)
    counted = meter.flops["prefill"] + meter.flops["compression"]
    assert prefill_flops(model, prompt, levels, context) == counted


def test_meter_times_a_stage_even_when_it_fails():
    meter = Meter()
    with pytest.raises(KeyError), meter.stage("decode"):
        raise KeyError
    assert meter.seconds["decode"] > 0
    assert set(meter.seconds) == set(meter.flops) == set(STAGES)


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU's peak is read from /proc")
def test_every_stage_has_a_peak_of_its_own():
    """Selection peaks, whichever meter comes after it; a stage that is never entered has none."""
    first, second = Meter(), Meter()
    with first.stage("selection"):
        torch.ones(64 << 20)  # 256 MiB, gone at once
    with second.stage("decode"):
        pass
    with first.stage("selection"):  # the largest of several times counts
        pass
    assert first.peaks["selection"] == first.peak_bytes > second.peaks["decode"] + (200 << 20)
    assert first.peaks["decode"] is None is second.peaks["selection"]


class Stream:
    def __init__(self, log, index):
        self.log, self.index = log, index

    def synchronize(self):
        self.log.append(f"sync {self.index}")


def test_a_spread_model_is_measured_on_every_gpu_it_uses(monkeypatch):
    """Three GPUs, of which the process uses the first and the last; no GPU is needed to ask the right ones."""
    log, allocated, peaks = [], {0: 5, 1: 0, 2: 7}, {0: 10, 1: 99, 2: 20}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "memory_allocated", allocated.__getitem__)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peaks.__getitem__)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: Stream(log, index))
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda index: log.append(f"reset {index}")
    )
    meter = Meter("cuda:0")
    with meter.stage("prefill"):
        log.append("work")
    assert log == [*("sync 0", "sync 2", "reset 0", "reset 2", "work", "sync 0", "sync 2")]
    assert meter.peak_bytes == 30


def test_a_compressor_that_keeps_all_is_not_run_and_not_counted():
    """With a codec a level at ratio 1 is still encoded."""
    model, codec = ours("qwen2_5_vl"), Quantised(8)

    def compression(method):
        meter = Meter()
        levels = {"low": Level(method, 1, codec), "high": Level(KeyNorm(), 8)}
        prefill(model, model.prompt(frames(8), 4), levels, meter=meter)
        return meter.flops["compression"]

    assert compression(KeyNorm()) == compression(MeanPool()) > 0
