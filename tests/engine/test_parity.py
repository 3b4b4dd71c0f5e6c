"""Ratio 1 must be the stock model, whatever the family and the chunks: what everything else stands on."""

import copy
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

import pytest
import torch
from transformers import AttentionInterface

from tests.parity import (
    FULL,
    QUESTION,
    QWEN2,
    RULES,
    chunked_logits,
    chunked_tokens,
    clip,
    dropped_chunk,
    inputs_for,
    logits_of,
    stock_logits,
    stock_tokens,
)
from tests.tiny import (
    FAMILIES,
    PAIRS,
    build,
    frames,
    metadata,
    ours,
    processor,
    stock,
    stock_inputs,
)
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_attention import TaskAware
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.context_length import ContextError
from x2l.engine.decode import answer
from x2l.engine.prefill import prefill
from x2l.models.attention import AttentionCapture
from x2l.models.huggingface import HFVideoModel
from x2l.models.positions import compact_end
from x2l.video import VideoError

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}
# Its router works in fp32 whatever the weights are, and rounds otherwise in a batch of another size.
ROUTER = {"glm4v_moe": 1e-6}
CHUNKINGS = {  # time steps a chunk; 14 frames leave a short last chunk for some
    torch.float32: (3,),
    torch.float64: (1, 3, 32),
}
MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe")


def steps_to_frames(family, steps):
    return steps * ours(family).temporal_patch


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return clip(tmp_path_factory.mktemp("clip"))


def test_the_clip_is_a_real_file_with_its_own_times(video):
    assert video.reader == "pyav" and video.pixels.shape == (14, 48, 80, 3)
    assert video.seconds.tolist() == [i / 2 for i in range(14)]


@pytest.mark.parametrize("dtype", CHUNKINGS)
@pytest.mark.parametrize(("family", "rule"), RULES)
def test_ratio_one_equals_stock_forward(video, family, rule, dtype):
    want = stock_logits(family, video, dtype, rule)
    assert want.abs().max() > 1
    limit = max(TOLERANCE[dtype], ROUTER.get(family, 0))
    for steps in CHUNKINGS[dtype]:
        got = chunked_logits(family, video, dtype, rule, steps_to_frames(family, steps))
        assert got.dtype == dtype and (got - want).abs().max() <= limit, steps


@pytest.mark.parametrize(("number", "family"), list(enumerate(PAIRS)))
def test_every_context_and_positions_rule_is_stock_at_ratio_one(number, family):
    """Both rules with every family, and with every context; not all three."""
    video, model = frames(9), ours(family, torch.float64, "hf")
    want = stock_logits(family, video, torch.float64)
    contexts = ("full", "high", "own")
    for positions, turn in (("keep", number), ("compact", number + 1)):
        context = contexts[turn % 3]
        store = prefill(model, model.prompt(video, 4), FULL, context=context, positions=positions)
        wrong = (logits_of(model, store) - want).abs().max()
        assert wrong <= ROUTER.get(family, 1e-9), (positions, context)


@pytest.mark.parametrize("family", PAIRS)
def test_dropping_one_chunk_changes_the_logits(family):
    """Negative control: the parity above would be worthless if the video did not matter."""
    assert dropped_chunk(family, frames(14)) > 0.1


@pytest.mark.parametrize("family", PAIRS)
def test_greedy_tokens_equal_generate(family):
    # For Qwen2.5-VL long enough for the video's time to reach beyond the question under the `hf` rule.
    video = frames(96 if family in QWEN2 else 14)
    got = chunked_tokens(family, video, "hf", 4, 12)
    assert got == stock_tokens(family, video, 12)


@pytest.mark.parametrize("family", QWEN2)
def test_greedy_tokens_equal_stock_without_a_cache_under_the_reference_rule(family):
    video = frames(24)
    assert chunked_tokens(family, video, "reference", 4, 8) == _cacheless(family, video, 8)


def _cacheless(family, video, count):
    """Greedy tokens by re-running the whole sequence."""
    hf, inputs = stock(family), inputs_for(family, video, torch.float32, "reference")
    inputs.pop("attention_mask")
    ids, positions, tokens = inputs.pop("input_ids"), inputs.pop("position_ids"), []
    while len(tokens) < count:
        with torch.inference_mode():
            out = hf(input_ids=ids, position_ids=positions, **inputs, use_cache=False)
        tokens.append(int(out.logits[0, -1].argmax()))
        if tokens[-1] == hf.generation_config.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([tokens[-1:]])], dim=1)
        positions = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
    return tokens


@pytest.mark.parametrize("family", MROPE)
def test_hf_positions_equal_the_stock_rope_index(family):
    video, model = frames(9), ours(family, torch.float32, "hf")
    inputs, prompt = inputs_for(family, video, torch.float32), model.prompt(video, 4)
    names = ("video_grid_thw", "second_per_grid_ts")
    want, _ = stock(family).model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        **{name: inputs[name] for name in names if name in inputs},
    )
    assert torch.equal(prompt.positions, want[:, 0, : prompt.tokens])
    assert prompt.next_position == int(want[0, 0, prompt.tokens])


@pytest.mark.parametrize("family", QWEN2)
def test_reference_positions_put_the_question_behind_the_video(family):
    """transformers 4.x: one past the largest position of the video on any axis."""
    video = frames(24)
    prompt = ours(family, positions="reference").prompt(video, 4)
    assert prompt.next_position == int(prompt.positions.max()) + 1
    assert prompt.next_position > ours(family, positions="hf").prompt(video, 4).next_position


def test_reference_prompt_of_qwen3_vl_has_one_vision_pair_a_step():
    """transformers 4.57 replaced the template's pair as well; 5.x leaves a second one around the video."""
    video = frames(8)
    for rule, pairs in (("reference", 4), ("hf", 5)):
        model = ours("qwen3_vl", positions=rule)
        prompt, question = model.prompt(video, 4), model.question(QUESTION)
        text = model.processor.tokenizer.decode([*prompt.input_ids, *question.input_ids])
        assert text.count("<|vision_start|>") == text.count("<|vision_end|>") == pairs


@pytest.mark.parametrize(("family", "rule"), RULES)
def test_prompt_and_question_are_the_stock_prompt_in_two_pieces(family, rule):
    model, video = ours(family, positions=rule), frames(6)
    prompt = model.prompt(video, 2)
    for text in (QUESTION, "\nStarts with a new line", "  ", "", "2 numbers", "日本語"):
        inputs = stock_inputs(family, video, text, unwrapped=rule == "reference")
        question = model.question(text)
        pieces = torch.cat([prompt.input_ids, question.input_ids])
        assert torch.equal(pieces, inputs["input_ids"][0]), text


@pytest.mark.parametrize("family", PAIRS)
def test_captured_queries_and_keys_are_the_models_own(family):
    """Softmax of captured queries x keys equals the eager attention of the stock model, q_norm and all."""
    model, video = ours(family, positions="hf"), frames(6)
    prompt, capture, cache = (
        model.prompt(video, 64),
        AttentionCapture(want_keys=True),
        model.new_cache(),
    )
    before, chunk = prompt.positions[:, : prompt.prefix], prompt.chunks[0]
    model.prefill_span(model.embed_text(prompt.input_ids[: prompt.prefix]), before, cache)
    model.prefill_span(model.embed_chunk(prompt, chunk), chunk.positions, cache, capture)
    hf = stock(family)
    hf.set_attn_implementation("eager")
    try:
        inputs = inputs_for(family, video, torch.float32)
        with torch.inference_mode():
            out = hf(**inputs, output_attentions=True)
    finally:
        hf.set_attn_implementation("sdpa")
    start, stop = prompt.prefix, prompt.tokens
    for layer in range(model.shape.layers):
        keys = capture.keys[layer].repeat_interleave(
            model.shape.heads // model.shape.kv_heads, dim=1
        )
        logits = capture.queries[layer] @ keys.transpose(2, 3) * capture.scaling[layer]
        mask = torch.ones(stop - start, stop, dtype=torch.bool).tril(start)
        got = logits.masked_fill(~mask, float("-inf")).softmax(-1)
        assert (got - out.attentions[layer][:, :, start:stop, :stop]).abs().max() < 3e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_runs_and_says_nearly_the_same(family):
    video, logits = frames(9), {}
    for dtype in (torch.float32, torch.bfloat16):
        model = ours(family, dtype)
        levels = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 4)}
        store = prefill(model, model.prompt(video, 4), levels)
        assert store.levels["high"][0].layers[0].keys.dtype == dtype
        logits[dtype] = logits_of(model, store).float()
        said = answer(
            model, store, model.question(QUESTION), store.reloading((1,)), max_new_tokens=3
        )
        assert said.first_logits.isfinite().all()
    near = torch.nn.functional.cosine_similarity(*logits.values(), dim=0)
    assert near > 0.99


# --- what families do with a video beyond random frames, one a second -----------------------------------------------


def uneven(count=9, size=(48, 80)):
    """Frames at times of a variable frame rate."""
    video = frames(count, size=size)
    seconds = torch.tensor([0.0, 0.7, 2.3, 2.9, 5.1, 61.4, 62.0, 63.8, 64.2, 65.0])[:count]
    return replace(video, seconds=seconds.double(), duration=66.0)


@pytest.mark.parametrize("family", PAIRS)
def test_uneven_times_and_a_short_last_chunk_equal_stock(family):
    video = uneven()
    want = stock_logits(family, video, torch.float64)
    got = chunked_logits(family, video, torch.float64, "hf", 4)
    assert (got - want).abs().max() <= ROUTER.get(family, 1e-9)


@pytest.mark.parametrize(
    ("family", "labels"),
    [
        ("qwen3_vl", ["<0.3 seconds>", "<2.6 seconds>", "<33.3 seconds>"]),
        ("glm4v", ["0", "2", "5"]),
        ("video_llama_3", ["Time 0.0s:", ",Time 2.3s:", ",Time 5.1s:"]),
        ("smolvlm", ["Frame from 00:00:", "Frame from 00:02:", "Frame from 01:01:"]),
        ("internvl", ["Frame1: ", "Frame4: ", "Frame6: "]),
    ],
)
def test_labels_tell_the_files_own_times_and_lie_in_their_chunk(family, labels):
    model, video = ours(family), uneven(6)
    prompt = model.prompt(video, 2)
    assert len(prompt.chunks) == 3
    for chunk, label in zip(prompt.chunks, labels, strict=True):
        ids = prompt.input_ids[chunk.start : chunk.stop]
        text = model.processor.tokenizer.decode(ids[~chunk.is_visual])
        assert label in text
        assert not any(other in text for other in labels if other not in label)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chunk_on_its_own_is_embedded_as_in_the_whole_video(family):
    """Frame sizes that some families choose from the number of frames are chosen from the whole video."""
    for size in ((40, 120), (200, 64), (333, 217)):
        video, model = frames(10, size=size), ours(family)
        whole = model.prompt(video, 10)
        all_at_once = model.embed_chunk(whole, whole.chunks[0]).embeds
        parts = model.prompt(video, 4)
        embedded = [model.embed_chunk(parts, chunk).embeds for chunk in parts.chunks]
        assert [e.shape[1] for e in embedded] == [c.tokens for c in parts.chunks]
        joined = torch.cat(embedded, dim=1)
        assert (joined - all_at_once).abs().max() <= 1e-5 < all_at_once.abs().max()


def still(count, changes):
    """A picture that stays the same but for a changed corner in some frames."""
    video = frames(count)
    pixels = video.pixels[:1].repeat(count, 1, 1, 1)
    for at in changes:
        pixels[at:, :24, :24] = 255 - pixels[at:, :24, :24]
    return replace(video, pixels=pixels)


@pytest.mark.parametrize("chunk_frames", [1, 2, 3, 16])
def test_video_llama_3_drops_still_tokens_as_its_processor_does(chunk_frames):
    video, model = still(18, (4, 5, 11)), ours("video_llama_3", torch.float64, "hf")
    prompt = model.prompt(video, chunk_frames)
    inputs = inputs_for("video_llama_3", video, torch.float64)
    kept = int(inputs["video_compression_mask"].sum())
    assert sum(c.visual_tokens for c in prompt.chunks) == kept < 18 * 16
    assert all(int(c.is_visual.sum()) == c.visual_tokens for c in prompt.chunks)
    want = stock_logits("video_llama_3", video, torch.float64)
    assert (logits_of(model, prefill(model, prompt, FULL)) - want).abs().max() <= 1e-9


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_compact_keeps_rows_and_columns_where_they_count_from(family):
    """A chunk of which a fraction f was kept takes f of its time; rows and columns keep their distance from there."""
    model = ours(family, torch.float64)
    prompt = model.prompt(frames(16), 4)
    levels = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 4)}
    store = prefill(model, prompt, levels, positions="compact")
    moved = store.mix(["high"] * 4)
    layer, kept = moved.kv.layers[0], [store.prefix, *store.levels["high"]]
    before = torch.cat([kv.layers[0].decoded_positions().expand(-1, 2, -1) for kv in kept], dim=2)
    after = layer.positions
    if family == "qwen2_5_vl":  # from the start of the video
        assert torch.equal(after[1:], before[1:])
    else:  # from the time step
        assert torch.allclose(after[1:] - after[:1], before[1:] - before[:1], atol=1e-4)
    assert (after[0].diff(dim=-1) >= -1e-4).all()
    assert after[0].max() < before[0].max()
    assert moved.place.next_position <= prompt.next_position


def with_rope(family, dtype=torch.float64, limit=4096, **rope):
    """A stock model whose RoPE is scaled."""
    hf = build(family, dtype)
    decoder = hf.get_decoder()
    decoder.config.max_position_embeddings = limit
    decoder.config.rope_parameters |= rope
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config)
    return hf


ROPES = {
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},  # scales the tables as well
    "linear": {"factor": 2.5},  # LLaVA-NeXT-Video
    "dynamic": {"factor": 2.0},  # InternVL3
}


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_next_video", "internvl"])
def test_scaled_rope_equals_stock(family, kind):
    video, rope = frames(9), {"rope_type": kind, **ROPES[kind]}
    stock_model = with_rope(family, **rope)
    assert (stock_model.get_decoder().rotary_emb.attention_scaling != 1) == (kind == "yarn")
    with torch.inference_mode():
        want = stock_model(**inputs_for(family, video, torch.float64)).logits[0, -1]
    if kind != "dynamic":  # which is the default one up to the context length
        assert (want - stock_logits(family, video, torch.float64)).abs().max() > 1e-2
    model = HFVideoModel(with_rope(family, **rope), processor(family), "hf")
    for positions in ("keep", "compact"):
        store = prefill(model, model.prompt(video, 4), FULL, "low", positions)
        assert (logits_of(model, store) - want).abs().max() <= 1e-9


def test_the_table_in_the_docs_is_written_by_a_script_that_runs(capsys):
    from experiments.docs.parity_table import TARGET, main

    before = TARGET.read_text()
    assert main(["internvl"]) == 0
    row = capsys.readouterr().out.splitlines()[-2].split("|")
    assert row[1].strip() == "internvl" and row[-2].strip() == "yes"
    assert float(row[4]) <= 2e-5 and float(row[5]) <= 1e-9 and float(row[7]) > 0.1
    assert TARGET.read_text() == before  # one family alone does not replace the page
    assert all(f"| {family} | {rule} |" in before for family, rule in RULES)


def test_dynamic_rope_is_refused_beyond_the_length_that_fixes_its_tables():
    hf = with_rope("internvl", torch.float32, limit=150, rope_type="dynamic", factor=2.0)
    model = HFVideoModel(hf, processor("internvl"))
    words = model.embed_text(torch.arange(5))
    model.prefill_span(words, torch.arange(145, 150)[None], model.new_cache())
    with pytest.raises(ValueError, match="position 150: beyond the 150 that this model's dynamic"):
        model.prefill_span(words, torch.arange(146, 151)[None], model.new_cache())


def wide(family, dtype=torch.float32, count=16):
    """A model and a video whose steps have many more columns than their share of time."""
    model = HFVideoModel(build(family, dtype), wide_processor(family), "hf")
    return model, frames(count, size=(48, 160))


def wide_processor(family):
    words = copy.deepcopy(processor(family))
    words.video_processor.size = {"shortest_edge": 64, "longest_edge": 1 << 30}
    return words


@pytest.mark.parametrize("context", ["full", "high"])
@pytest.mark.parametrize("family", ["qwen3_vl", "glm4v"])
def test_compact_never_goes_back_where_steps_are_blocks(family, context):
    """What follows a chunk stands beyond all that was kept of it, on every axis, as in the model's own input."""
    model, video = wide(family)
    prompt = model.prompt(video, 4)
    assert prompt.chunks[0].grid[2] > 4 * prompt.chunks[0].grid[1] / 2 > 2
    levels = {"low": Level(KeyNorm(), 2), "high": Level(KeyNorm(), 32)}
    store = prefill(model, prompt, levels, context=context, positions="compact")
    for assignment in (["high"] * 4, ["low", "high", "high", "low"]):
        mixed = store.mix(assignment)
        for layer, spans in zip(mixed.kv.layers, mixed.spans, strict=True):
            ends = [float(layer.positions[..., a:b].max()) for a, b in spans]
            starts = [float(layer.positions[..., a:b].min()) for a, b in spans]
            assert all(end < start for end, start in zip(ends[:-1], starts[1:], strict=True))
            assert ends[-1] < mixed.place.next_position <= prompt.next_position
    text = [chunk.tokens - chunk.visual_tokens for chunk in prompt.chunks]
    kept = [count + kept for count, kept in zip(text, store.kept("high"), strict=True)]
    end = compact_end(prompt, kept, [0] * 4)  # what the context check uses
    assert store.mix(["high"] * 4).place.next_position <= end


@dataclass(frozen=True)
class Looks(KeyNorm):
    """Remembers the positions that a chunk was run at."""

    at: list = field(default_factory=list)

    def score(self, kv, seen):
        self.at.append(seen.positions)
        return super().score(kv, seen)


@pytest.mark.parametrize("ratio", [1.5, 4, 32])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v", "internvl", "smolvlm"])
def test_a_compact_prefill_stays_below_the_end_that_the_context_check_uses(family, ratio):
    model = ours(family)
    minutes = frames(14)
    video = replace(minutes, seconds=minutes.seconds * 60, duration=14 * 60.0)
    prompt, looks = model.prompt(video, 4), Looks()
    levels = {"low": Level(KeyNorm(), 1), "high": Level(looks, ratio)}
    prefill(model, prompt, levels, context="high", positions="compact")
    used = max(int(at.max()) for at in looks.at) + 1
    kept = [
        chunk.tokens - chunk.visual_tokens + ceil(chunk.visual_tokens / Fraction(str(ratio)))
        for chunk in prompt.chunks
    ]
    end = compact_end(prompt, kept, [0] * len(kept))
    longest = max(int(c.positions.max()) + 2 - int(c.positions[0, 0]) for c in prompt.chunks)
    assert used <= end <= used + 2 * longest  # a bound, but not any bound


def test_a_probe_that_does_not_fit_the_context_is_refused_before_anything_runs():
    hf = build("internvl")
    hf.config.get_text_config().max_position_embeddings = 150
    model = HFVideoModel(hf, processor("internvl"))
    prompt = next(p for n in range(9, 4, -1) if (p := model.prompt(frames(n), 2)).tokens <= 150)
    levels = {"low": Level(KeyNorm(), 1), "high": Level(TaskAware(probe="What is it? " * 9), 4)}
    prefill(model, prompt, {"low": levels["low"], "high": Level(KeyNorm(), 4)})
    with pytest.raises(ContextError, match="the model's context has 150"):
        prefill(model, prompt, levels)


def test_pixels_of_a_frame_are_capped_as_the_rule_says():
    """A checkpoint that does not say: transformers 5 does not cap them, the published reference code does."""
    words = copy.deepcopy(processor("qwen2_5_vl"))
    words.video_processor.size = {"shortest_edge": 64, "longest_edge": 1 << 20}
    words.video_processor.cap_pixels_per_frame = None
    words.video_processor.max_video_tokens = 60
    video, grids = frames(12, size=(128, 128)), {}
    for rule in ("hf", "reference"):
        model = HFVideoModel(build("qwen2_5_vl"), words, rule)
        grids[rule] = model.prompt(video, 4).chunks[0].grid
    stocked = words(
        text=[words.video_token],
        videos=[video.pixels.permute(0, 3, 1, 2)],
        videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata(video)]},
        return_tensors="pt",
    )["video_grid_thw"][0]
    assert grids["hf"][1:] == (int(stocked[1]) // 2, int(stocked[2]) // 2)
    assert grids["reference"][1] < grids["hf"][1]


TWO_FRAMES = ("qwen3_vl", "glm4v")


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in TWO_FRAMES])
def test_a_single_frame_is_the_same_frame_shown_for_a_whole_step(family):
    one, step = frames(1), ours(family).temporal_patch
    want = stock_logits(family, one, torch.float64)
    assert (chunked_logits(family, one, torch.float64, "hf", step) - want).abs().max() <= 1e-9
    prompt = ours(family).prompt(replace(one, duration=3600.0), 2)
    assert prompt.chunks[0].seconds == (0.0, 3600.0)


@pytest.mark.parametrize("family", TWO_FRAMES)
def test_a_single_frame_is_refused_where_the_stock_processor_refuses_it(family):
    with pytest.raises(ValueError, match="t:1 must be larger than temporal_factor:2"):
        stock_inputs(family, frames(1))
    with pytest.raises(VideoError, match=r"must be larger.*:2; give it 2 frames or more$"):
        ours(family).prompt(frames(1), 2)


def test_every_time_step_has_its_own_mean_embedding_where_tokens_were_dropped():
    video, model = still(9, (4, 5)), ours("video_llama_3")
    prompt = model.prompt(video, 4)
    assert any(chunk.grid[0] == 1 < len(chunk.steps) for chunk in prompt.chunks)
    store = prefill(model, prompt, FULL)
    assert store.step_chunk == (0, 0, 0, 0, 1, 1, 1, 1, 2)
    embedded = model.embed_chunk(prompt, prompt.chunks[1])
    visual = embedded.embeds[0, prompt.chunks[1].is_visual]
    first = prompt.chunks[1].steps[0]
    assert torch.allclose(store.step_embeds[4], visual[:first].mean(0), atol=1e-6)


def test_vision_operations_are_those_of_sdpa_whatever_kernel_the_tower_has():
    """flash-attn's own operators are unknown to torch's counter, which would take them for free."""

    def uncounted(module, query, key, value, mask, **options):
        return torch.zeros_like(query).transpose(1, 2), None

    AttentionInterface.register("flash_uncounted", uncounted)
    hf, video = build("llava_onevision"), frames(4)
    hf.config.vision_config._attn_implementation = "flash_uncounted"
    model = HFVideoModel(hf, processor("llava_onevision"))
    prompt, plain = model.prompt(video, 4), ours("llava_onevision")
    got = model.embed_chunk(prompt, prompt.chunks[0]).flops
    assert got == plain.embed_chunk(prompt, prompt.chunks[0]).flops
    assert hf.config.vision_config._attn_implementation == "flash_uncounted"
