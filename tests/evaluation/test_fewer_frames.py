"""The control of fewer frames: its budget is the method's, to the byte; what it spends is as near as frames allow."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.clustering import DensityPeaks
from x2l.compressors.head_budgets import AdaKV
from x2l.compressors.merging import ToMe
from x2l.compressors.pooling import MeanPool
from x2l.compressors.pruning_by_attention import SnapKV
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import Quantised
from x2l.engine.assignment import assigned
from x2l.engine.flops import kv_bytes
from x2l.engine.prefill import prefill
from x2l.engine.top_k import budget_of
from x2l.evaluation.budgets import budget_bytes, budget_tokens, check_budget
from x2l.evaluation.fewer_frames import thinned
from x2l.evaluation.stored_bytes import expected_bytes
from x2l.models.prompt import Prompt

PLAIN = {"low": Level(ToMe(), 2), "high": Level(ToMe(), 8)}
CODED = {
    "low": Level(KeyNorm(), 2, Quantised(4, 8)),
    "high": Level(KeyNorm(), 4, Quantised(8, 8), layers="pyramid"),
}

LEVELS = {"plain": PLAIN, "coded": CODED}


@cache
def stored(family, levels):
    """6 chunks, the last of half the length."""
    model = ours(family)
    return prefill(model, model.prompt(frames(22), 4), LEVELS[levels])


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("top_k", [0, 3, 9])
@pytest.mark.parametrize("pinned", [(), ("first", "last")])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_budget_is_what_the_method_decodes_from(family, top_k, pinned, levels):
    """Of the real mixed cache; Qwen3-VL has timestamps inside its chunks, which stay whole."""
    model, store, levels = ours(family), stored(family, levels), LEVELS[levels]
    prompt = model.prompt(frames(22), 4)
    reloaded = {0, 5} if pinned else set()
    rest = [chunk for chunk in range(6) if chunk not in reloaded]
    reloaded |= set(rest[:top_k])
    mixed = store.mix(["low" if chunk in reloaded else "high" for chunk in range(6)])
    assert budget_bytes(model, prompt, levels, top_k, pinned) == mixed.nbytes
    if levels is PLAIN:
        tokens = budget_tokens(model, prompt, levels, top_k, pinned)
        assert kv_bytes(model.shape, tokens) == mixed.nbytes


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("pinned", [(), ("first", "last")])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_of_a_budget_no_more_counts_than_chunks_can_spend(family, pinned, levels):
    """Else fewer frames would have the part that the method leaves over."""
    model, store, levels = ours(family), stored(family, levels), LEVELS[levels]
    prompt = model.prompt(frames(22), 4)
    full = kv_bytes(model.shape, prompt.tokens)
    spent = set()
    least, most = (budget_bytes(model, prompt, levels, k, pinned) for k in (0, 6))
    for share in (0.01, 0.3, 0.6, 1.01):
        top_k = f"{100 * (least + share * (most - least)) / full:.3f}%"
        for relevance in (torch.arange(6.0), -torch.arange(6.0)):
            given = assigned(relevance, top_k, store, full, pinned)
            mixed = store.mix(given)
            assert mixed.nbytes <= budget_of(top_k, full)
            if relevance[0] > relevance[-1]:
                assert budget_bytes(model, prompt, levels, top_k, pinned) == mixed.nbytes
                spent.add(mixed.nbytes)
                if levels is PLAIN:
                    tokens = budget_tokens(model, prompt, levels, top_k, pinned)
                    assert kv_bytes(model.shape, tokens) == mixed.nbytes
    assert len(spent) > 1
    with pytest.raises(ValueError, match=r"top_k=1%: must be at least \d+\.\d% .* takes with"):
        check_budget(model, prompt, levels, "1%", pinned)


@pytest.mark.parametrize(
    "compressor",
    [KeyNorm(), ToMe(), MeanPool(), SnapKV(), DensityPeaks(), AdaKV(KeyNorm())],
    ids=lambda compressor: compressor.name,
)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_and_weights_are_in_what_is_expected(family, compressor):
    """Of the real mixed cache; exact but where heads keep different numbers, of which noise has others."""
    model = ours(family)
    levels = {"low": Level(compressor, 2), "high": Level(compressor, 8, Quantised(4, 8))}
    prompt = model.prompt(frames(22), 4)
    store = prefill(model, prompt, levels)
    mixed = store.mix(["low"] * 3 + ["high"] * 3)
    expected = expected_bytes(model, prompt, levels, 3, ())
    near = 0.02 if compressor.ragged else 0.005
    assert expected == pytest.approx(mixed.stored_bytes, rel=near)
    assert mixed.stored_bytes > 1.01 * mixed.nbytes


def tokens_of(prompt):
    return prompt.tokens


class Sized:
    """A model whose prompt has `weight(frames)` tokens for each pair of frames."""

    temporal_patch = 2

    def __init__(self, weight=lambda count: 10):
        self.weight, self.asked = weight, []

    def prompt(self, video, chunk_frames):
        count = len(video.pixels)
        self.asked.append(count)
        ids = torch.zeros(5 + (count + 1) // 2 * self.weight(count), dtype=torch.long)
        return Prompt(ids, ids[None], 5, (), 0, 0, {})


@pytest.mark.parametrize("target", range(0, 350, 7))
def test_no_other_number_of_frames_is_nearer(target):
    found, prompt = thinned(Sized(), frames(64), 4, target, tokens_of)
    every = [5 + 10 * steps for steps in range(1, 33)]
    assert abs(prompt.tokens - target) == min(abs(tokens - target) for tokens in every)
    assert prompt.tokens == 5 + 10 * (len(found.pixels) // 2)


def test_another_size_than_tokens_may_be_held_equal():
    half, _ = thinned(Sized(), frames(64), 4, 45, tokens_of)
    squared, prompt = thinned(Sized(), frames(64), 4, 45**2, lambda prompt: tokens_of(prompt) ** 2)
    assert torch.equal(half.seconds, squared.seconds) and prompt.tokens == 45


def test_a_tie_goes_to_more_frames():
    assert thinned(Sized(), frames(64), 4, 30, tokens_of)[1].tokens == 35


def test_frames_that_cost_more_when_they_are_few_are_fewer():
    """As with processors that share out a number of pixels: 640 tokens whatever the frames, up to 40 a pair."""
    model = Sized(lambda count: min(40, 1280 // count))
    found, prompt = thinned(model, frames(64), 4, 205, tokens_of)
    assert (len(found.pixels), prompt.tokens) == (10, 205)
    assert len(model.asked) <= 8  # a bisection, not every number


def test_the_frames_are_spread_over_the_video():
    video = frames(64)
    found, _ = thinned(Sized(), video, 4, 45, tokens_of)
    at = found.seconds.long()
    assert at.tolist() == [0, 9, 18, 27, 36, 45, 54, 63]
    assert torch.equal(found.pixels, video.pixels[at]) and found.duration == video.duration


def test_a_budget_beyond_the_video_takes_all_of_it():
    assert len(thinned(Sized(), frames(64), 4, 10**6, tokens_of)[0].pixels) == 64
    for odd in (3, 23, 63):
        assert len(thinned(Sized(), frames(odd), 4, 10**6, tokens_of)[0].pixels) == odd
    model = ours("qwen2_5_vl")  # a processor fills the last step up
    found, prompt = thinned(model, frames(23), 4, 10**6, tokens_of)
    assert len(found.pixels) == 23 and prompt.tokens == model.prompt(frames(23), 4).tokens
    short = replace(frames(1))
    assert len(thinned(Sized(), short, 4, 10, tokens_of)[0].pixels) == 1
