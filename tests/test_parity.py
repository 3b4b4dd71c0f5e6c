"""Ratio 1 must be the stock model, whatever the chunks: the invariant that everything else stands on."""

import pytest
import torch

from tests.tiny import FAMILIES, frames, ours, stock
from x2l.compressors.base import Level
from x2l.compressors.pruning import KeyNorm
from x2l.decode import answer
from x2l.models.attention import Watch
from x2l.prefill import prefill

QUESTION = "What is the colour of the star?\nA. red\nB. blue"
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}
FULL = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 1)}


def stock_inputs(model, video, family, dtype):
    """The stock processor's whole prompt and the positions that `model` uses for it."""
    inputs = model.process(video, QUESTION)
    prompt = model.prompt(video, 2)
    tail = inputs["input_ids"].shape[1] - prompt.tokens
    after = (torch.arange(tail) + prompt.next_position).expand(3, -1)
    positions = torch.cat([prompt.positions, after], dim=1)[:, None]
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(dtype)
    if family == "qwen2_vl":
        inputs.pop("second_per_grid_ts")  # Qwen2-VL's own processor gives none
    return inputs, positions


@pytest.mark.parametrize("rule", ["reference", "hf"])
@pytest.mark.parametrize("chunk_frames", [2, 4, 6, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_ratio_one_equals_stock_forward(family, dtype, chunk_frames, rule):
    video, model = frames(14), ours(family, dtype, rule)
    prompt = model.prompt(video, chunk_frames)
    store = prefill(model, prompt, FULL, context="full")
    got = answer(
        model, store, model.question(QUESTION), selected=(0,), max_new_tokens=1
    ).first_logits
    inputs, positions = stock_inputs(model, video, family, dtype)
    inputs.pop("mm_token_type_ids")
    with torch.inference_mode():
        want = stock(family, dtype)(**inputs, position_ids=positions).logits[0, -1]
    assert want.abs().max() > 1
    assert (got - want.float()).abs().max() <= TOLERANCE[torch.float32]
    if dtype == torch.float64:
        logits = _first_logits_fp64(model, store)
        assert (logits - want).abs().max() <= TOLERANCE[dtype]


def _first_logits_fp64(model, store):
    from x2l.decode import ask

    mixed = store.mix(["low"] * len(store.prompt.chunks))
    return ask(model, model.fill(mixed.kv), model.question(QUESTION), mixed.place)


@pytest.mark.parametrize("context", ["full", "low", "high", "own"])
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_every_context_and_positions_rule_is_stock_at_ratio_one(context, positions):
    video, model = frames(14), ours("qwen2_5_vl", torch.float64)
    store = prefill(model, model.prompt(video, 4), FULL, context=context, positions=positions)
    inputs, at = stock_inputs(model, video, "qwen2_5_vl", torch.float64)
    inputs.pop("mm_token_type_ids")
    with torch.inference_mode():
        want = stock("qwen2_5_vl", torch.float64)(**inputs, position_ids=at).logits[0, -1]
    assert (_first_logits_fp64(model, store) - want).abs().max() <= 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_one_chunk_changes_the_logits(family):
    """Negative control: the parity above would be worthless if the video did not matter."""
    model = ours(family)
    store = prefill(model, model.prompt(frames(14), 4), FULL)
    full = answer(model, store, model.question(QUESTION), (), max_new_tokens=1).first_logits
    short = prefill(model, model.prompt(frames(14), 4), FULL)
    levels = {name: tuple(kvs[:1] + kvs[:1] + kvs[2:]) for name, kvs in short.levels.items()}
    from dataclasses import replace

    broken = answer(
        model, replace(short, levels=levels), model.question(QUESTION), (), max_new_tokens=1
    ).first_logits
    assert (full - broken).abs().max() > 0.1


@pytest.mark.parametrize("rule", ["reference", "hf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_generate(family, rule):
    # Long enough for the video's time to reach beyond the question under the `hf` rule.
    video, model = frames(96), ours(family, torch.float32, rule)
    assert rule == "reference" or model.prompt(video, 4).video_end > 60
    store = prefill(model, model.prompt(video, 4), FULL)
    got = answer(model, store, model.question(QUESTION), (0, 1), max_new_tokens=12).token_ids
    inputs, positions = stock_inputs(model, video, family, torch.float32)
    hf = stock(family)
    if rule == "hf":  # the stock model infers its own positions: nothing of ours is involved
        with torch.inference_mode():
            out = hf.generate(**inputs, max_new_tokens=12, do_sample=False)
        want = out[0, inputs["input_ids"].shape[1] :].tolist()
    else:
        want = _stock_greedy(hf, inputs, positions, 12)
    assert list(got) == want


def _stock_greedy(hf, inputs, positions, count):
    """Greedy tokens by re-running the whole sequence without any cache."""
    inputs = dict(inputs)
    inputs.pop("mm_token_type_ids"), inputs.pop("attention_mask")
    ids, tokens = inputs.pop("input_ids"), []
    for _ in range(count):
        with torch.inference_mode():
            logits = hf(input_ids=ids, position_ids=positions, **inputs, use_cache=False).logits[
                0, -1
            ]
        tokens.append(int(logits.argmax()))
        if tokens[-1] == hf.generation_config.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([tokens[-1:]])], dim=1)
        positions = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_hf_positions_equal_the_stock_rope_index(family):
    video, model = frames(9), ours(family, torch.float32, "hf")
    inputs = model.process(video, QUESTION)
    prompt = model.prompt(video, 4)
    extra = {"second_per_grid_ts": inputs["second_per_grid_ts"]} if family == "qwen2_5_vl" else {}
    want, _ = stock(family).model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        **extra,
    )
    assert torch.equal(prompt.positions, want[:, 0, : prompt.tokens])
    assert prompt.next_position == int(want[0, 0, prompt.tokens])


def test_reference_positions_put_the_question_behind_the_video():
    """transformers 4.x: one past the largest position of the video on any axis."""
    prompt = ours("qwen2_5_vl").prompt(frames(14), 4)
    assert (
        prompt.next_position
        == int(prompt.positions.max()) + 1
        > ours("qwen2_5_vl", positions="hf").prompt(frames(14), 4).next_position
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_question_tokens_equal_the_tail_of_the_stock_prompt(family):
    model = ours(family)
    whole = model.process(frames(6), QUESTION)["input_ids"][0]
    prompt, question = model.prompt(frames(6), 2), model.question(QUESTION)
    assert torch.equal(torch.cat([prompt.input_ids, question.input_ids]), whole)


def test_captured_queries_are_the_models_own():
    """softmax(captured queries x keys) equals the eager attention of the stock model."""
    model, video = ours("qwen2_5_vl"), frames(6)
    prompt, watch, cache = model.prompt(video, 64), Watch(want_keys=True), model.new_cache()
    model.advance(
        model.embed_text(prompt.input_ids[: prompt.prefix]),
        prompt.positions[:, : prompt.prefix],
        cache,
    )
    model.advance(
        model.embed_chunk(prompt, prompt.chunks[0]), prompt.chunks[0].positions, cache, watch
    )
    hf = stock("qwen2_5_vl")
    hf.set_attn_implementation("eager")
    try:
        inputs, positions = stock_inputs(model, video, "qwen2_5_vl", torch.float32)
        inputs.pop("mm_token_type_ids")
        with torch.inference_mode():
            out = hf(**inputs, position_ids=positions, output_attentions=True)
    finally:
        hf.set_attn_implementation("sdpa")
    start, stop = prompt.prefix, prompt.tokens
    for layer in range(model.shape.layers):
        keys = watch.keys[layer].repeat_interleave(4, dim=1)
        logits = watch.queries[layer] @ keys.transpose(2, 3) * watch.scaling[layer]
        mask = torch.ones(stop - start, stop, dtype=torch.bool).tril(start)
        got = logits.masked_fill(~mask, float("-inf")).softmax(-1)
        assert (got - out.attentions[layer][:, :, start:stop, :stop]).abs().max() < 1e-5
