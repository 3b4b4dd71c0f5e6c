"""Video-XL's official layout: recognised, translated, loaded by the stock class, or refused by name."""

import pytest
import torch

from tests.video_xl import checkpoint, frames, inputs, spoil
from x2l.models.checkpoint import locate, read_config
from x2l.models.loading import load, weight_bytes
from x2l.models.video_xl import CLIP_L_336


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("video_xl"))


@pytest.mark.parametrize(
    ("layer", "dtype", "name"),
    [
        (-2, "float32", "visual_embeds"),
        (-2, "float64", "visual_embeds_fp64_first10"),
        (-1, "float32", "visual_embeds_layer_minus1_first10"),
    ],
)
def test_tower_projector_and_pooling_are_the_official_ones(layer, dtype, name, tmp_path):
    model = load(str(checkpoint(tmp_path, mm_vision_select_layer=layer)), dtype=dtype)
    pixels = inputs()["pixel_values_first10"][None].to(model.dtype)
    with torch.no_grad():
        features = model.hf.model.get_video_features(pixels, return_dict=True).pooler_output[0]
    limit = 5e-5 if dtype == "float32" else 1e-6
    assert (features - inputs()[name][:160]).abs().max() < limit


def test_frames_reach_the_decoder_as_official_ones_do(folder):
    """The official code resizes with PIL, which rounds to whole grey levels elsewhere: one level at most."""
    model = load(str(folder))
    prompt = model.prompt(frames(10), 10)
    (chunk,) = prompt.chunks
    assert (chunk.visual_tokens, chunk.grid, prompt.tokens) == (
        160,
        (10, 4, 4),
        prompt.prefix + 160,
    )
    outputs = model.processor.video_processor(
        videos=[inputs()["frames_first10"].permute(0, 3, 1, 2)], return_tensors="pt"
    )
    std = torch.tensor(model.processor.video_processor.image_std)[:, None, None]
    levels = (outputs["pixel_values_videos"][0] - inputs()["pixel_values_first10"]) * std * 255
    assert levels.abs().max() < 1.01
    embedded, official = model.embed_chunk(prompt, chunk).embeds[0], inputs()["visual_embeds"][:160]
    assert official.std() > 1 and (embedded - official).abs().max() < 0.05


def test_a_wide_frame_loses_its_sides(folder):
    model = load(str(folder))
    pixels = torch.zeros(1, 24, 72, 3, dtype=torch.uint8)
    pixels[:, :, 24:48] = 255
    whole = model.processor.video_processor(videos=[pixels.permute(0, 3, 1, 2)])
    shown = whole["pixel_values_videos"][0]
    assert shown.shape[-2:] == (24, 24) and float(shown.min()) > 1.9  # nothing but the white middle


def test_the_prompt_is_the_official_evaluations(folder):
    model = load(str(folder))
    prompt = model.prompt(frames(3), 2)
    words, ids = model.processor.tokenizer, prompt.input_ids
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    after = "\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    assert words.decode(ids[: prompt.prefix]) == before
    assert words.decode(model.question("What?").input_ids) == after
    assert set(ids[prompt.prefix :].tolist()) == {model.hf.config.video_token_id}
    assert [chunk.visual_tokens for chunk in prompt.chunks] == [32, 16]
    assert int(ids[0]) == 250 and 251 in model.end_tokens


def test_published_sizes_are_those_of_clip_and_qwen2(tmp_path):
    """8.40 B parameters, 16.8 GB in float16, known from config.json alone."""
    sizes = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "mm_hidden_size": 1024,
        "vision_config": None,
    }
    described = read_config(locate(str(checkpoint(tmp_path, **sizes)), None, False))
    vision = described.config.vision_config
    assert {name: getattr(vision, name) for name in CLIP_L_336} == CLIP_L_336
    assert weight_bytes(described.config, torch.float16) == pytest.approx(16.8e9, rel=0.003)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beacon_attn": "segmentation"}, "beacon_attn='segmentation': must be 'full-coverage'"),
        ({"beacon_attend_prev": False}, "beacon_attend_prev=False: must be True"),
        ({"beacon_sink_size": 4}, "beacon_sink_size=4: must be 0"),
        ({"beacon_param": ["q", "k", "v", "o"]}, r"beacon_param=\['q', 'k', 'v', 'o'\]: must be"),
        ({"beacon_stride": 80}, "beacon_window=160: must be as large as beacon_stride=80"),
        ({"mm_spatial_pool_stride": 4}, "mm_spatial_pool_stride=4: must be 2"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear': must be 'mlp2x_gelu'"),
        ({"mm_hidden_size": 1152}, "mm_hidden_size=1152: must be 32"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer is missing"),
        ({"use_sliding_window": True}, "use_sliding_window=True: must be False"),
        ({"vocab_size": 252}, "at most vocab_size=252"),
        ({"beacon_param": None}, "mm_resampler_type='spatial_pool': must be None"),  # as LongVA
    ],
)
def test_what_changes_the_arithmetic_is_refused_by_name(change, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load(str(checkpoint(tmp_path, **change)))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"model__layers__1__self_attn__beacon_k_proj__bias": None},
            r"layers\.1\.self_attn\.k_proj\.summary\.bias",
        ),
        ({"model__beacon_embed_tokens__weight": None}, "summary_embedding"),
        ({"model__image_newline": torch.zeros(64)}, "image_newline"),
        (
            {"model__mm_projector__0__bias": torch.zeros(65)},
            r"linear_1\.bias for one: \[65\], not \[64\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(weights, message, tmp_path):
    spoil(checkpoint(tmp_path), **weights)
    with pytest.raises(OSError, match=message):
        load(str(tmp_path))
