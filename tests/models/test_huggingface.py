"""Loading and wrapping stock models: what goes wrong must say so."""

import subprocess
import sys

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText

from tests.tiny import FAMILIES, PACKAGED, PAIRS, build, frames, ours, processor
from x2l.models.attention import NAME
from x2l.models.families import FAMILIES as ALLOWED
from x2l.models.huggingface import HFVideoModel, check_supported
from x2l.models.loading import load
from x2l.video import VideoError

LOAD = load


def test_the_packaged_checkpoint_is_an_ordinary_folder():
    hf = AutoModelForImageTextToText.from_pretrained(PACKAGED)
    assert type(hf).__name__ == "Qwen2_5_VLForConditionalGeneration"
    model = LOAD("x2l_tiny")
    assert model.dtype == torch.float32 and model.shape.kv_itemsize == 4
    by_path = LOAD(str(PACKAGED), dtype="bfloat16")
    assert by_path.dtype == torch.bfloat16 and by_path.shape.kv_itemsize == 2


def test_only_the_decoders_attention_is_replaced():
    model = ours("qwen2_5_vl")
    assert model.decoder.config._attn_implementation == NAME
    assert model.hf.config.vision_config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, r"model.dtype='int8': must be one of \('float32'"),
        ({"positions": "auto"}, r"model.positions='auto': must be one of"),
        (
            {"device": "cuda"},
            "model.device='cuda': torch sees no CUDA device; use model.device=cpu",
        ),
    ],
)
def test_wrong_values_name_field_value_rule_and_remedy(arguments, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        LOAD(**arguments)


def test_a_missing_checkpoint_says_how_to_fetch_it(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match=r"model.name_or_path='nobody/nothing'.*hf download nobody/nothing"
    ):
        LOAD("nobody/nothing")


def test_other_families_are_refused():
    hf = build("qwen2_vl")
    hf.config.model_type = "other_vl"
    with pytest.raises(ValueError, match="model type 'other_vl' is not supported"):
        HFVideoModel(hf, processor())


def test_every_pair_of_model_and_text_model_that_is_allowed_was_shown_equal():
    """What tests/engine/test_parity.py runs, and nothing else."""
    shown = {name: _pair(build(name).config) for name in PAIRS}
    allowed = {(kind, text) for kind, family in ALLOWED.items() for text in family.text}
    assert set(shown.values()) == allowed


def _pair(config):
    return config.model_type, config.get_text_config().model_type


@pytest.mark.parametrize("text", ["gpt2", "opt", "bloom", "olmo2", "cohere", "qwen2_moe", "phi"])
def test_another_text_model_is_refused_by_the_configuration_alone(text):
    """Some of them have no RoPE, with which `compact` would be wrong without a word."""
    config = transformers.InternVLConfig(text_config={"model_type": text})
    with pytest.raises(
        ValueError, match=rf"'internvl' around a text model of type '{text}' has"
    ) as caught:
        check_supported(config)
    assert "use one around qwen2 or qwen3 or llama or qwen3_moe" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sliding_windows_are_refused():
    hf = build("qwen2_vl")
    hf.config.get_text_config().layer_types = ["full_attention", "sliding_attention"] * 2
    with pytest.raises(ValueError, match=r"has layers of type \['sliding_attention'\], whose"):
        HFVideoModel(hf, processor())


@pytest.mark.parametrize(
    ("config", "layers"),
    [("Qwen3_5Config", "linear_attention"), ("Gemma4Config", "sliding_attention")],
)
def test_hybrid_and_sliding_window_families_are_refused_by_what_their_layers_are(config, layers):
    with pytest.raises(ValueError, match=rf"layers of type \['{layers}'\], whose state cannot"):
        check_supported(getattr(transformers, config)())


def test_times_that_do_not_increase_are_refused():
    video = frames(4)
    broken = type(video)(video.pixels, video.seconds * 0, 4.0, 4.0, "broken.mp4", "pyav")
    with pytest.raises(VideoError, match="broken.mp4: its timestamps do not increase"):
        ours("qwen2_5_vl").prompt(broken, 2)


def test_pictures_that_the_processor_refuses_are_the_videos_fault():
    video = frames(2, size=(4, 1000))
    with pytest.raises(
        VideoError, match="random.mp4: the model's processor refuses it: absolute aspect"
    ):
        ours("qwen2_5_vl").prompt(video, 2)


def test_a_question_cannot_smuggle_in_a_video():
    with pytest.raises(ValueError, match="must not contain the model's visual placeholder"):
        ours("qwen2_5_vl").question("what <|video_pad|> is this?")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_single_frame_and_odd_numbers_of_frames_are_padded_like_the_processor_does(count):
    prompt = ours("qwen2_5_vl").prompt(frames(count), 2)
    assert [chunk.frames for chunk in prompt.chunks][-1][1] == count
    assert sum(chunk.visual_tokens for chunk in prompt.chunks) == -(-count // 2) * 16


def test_chunk_times_come_from_the_file():
    video = frames(6)
    slow = type(video)(video.pixels, video.seconds * 3 + 1, 4.0, 18.0, "slow.mp4", "pyav")
    chunks = ours("qwen2_5_vl").prompt(slow, 4).chunks
    assert [chunk.seconds for chunk in chunks] == [(1.0, 13.0), (13.0, 19.0)]
    assert chunks[1].frame_seconds == (13.0, 16.0)
    # three seconds a frame, two frames a step, two positions a second
    assert int(chunks[1].positions[0, 0] - chunks[0].positions[0, 0]) == 24


def test_processors_import_where_torchvisions_operators_cannot_load():
    """In a fresh interpreter, warnings as errors: importing the models is enough."""
    code = "import x2l.models, transformers; print(transformers.Qwen2VLVideoProcessor.__name__)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.strip() == "Qwen2VLVideoProcessor", done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_and_text_of_any_family_add_up(family):
    model = ours(family)
    for count in (2, 3, 7):
        prompt = model.prompt(frames(count), 2 * model.temporal_patch)
        assert prompt.chunks[0].start == prompt.prefix and prompt.chunks[-1].stop == prompt.tokens
        for before, after in zip(prompt.chunks[:-1], prompt.chunks[1:], strict=True):
            assert before.stop == after.start and before.frames[1] == after.frames[0]
        for chunk in prompt.chunks:
            assert int(chunk.is_visual.sum()) == chunk.visual_tokens


@pytest.mark.parametrize("kind", ["longrope", "other"])
def test_rope_whose_tables_depend_on_the_length_is_refused(kind):
    hf = build("internvl")
    hf.get_decoder().config.rope_parameters["rope_type"] = kind
    with pytest.raises(ValueError, match=f"its RoPE is of type '{kind}'.*one of"):
        HFVideoModel(hf, processor("internvl"))


def test_vision_operations_are_counted_once_for_each_shape_and_are_the_same_each_time():
    model = ours("llava_onevision")
    prompt = model.prompt(frames(10), 4)
    first = [model.embed_chunk(prompt, chunk).flops for chunk in prompt.chunks]
    assert first == [model.embed_chunk(prompt, chunk).flops for chunk in prompt.chunks]
    assert first[0] == first[1] == 2 * first[2] > 0


def test_vision_operations_follow_the_grid_not_only_the_number_of_patches():
    """Three steps of 8 x 8 patches and two of 8 x 12 are tensors of one shape; attention is within a step."""
    model = ours("qwen2_5_vl")
    three = model.prompt(frames(6, size=(64, 64)), 6)
    two = model.prompt(frames(4, size=(48, 80)), 6)
    assert three.chunks[0].visual_tokens == two.chunks[0].visual_tokens == 48
    flops = [model.embed_chunk(prompt, prompt.chunks[0]).flops for prompt in (three, two)]
    assert flops[0] < flops[1]


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "linear", "factor": 2.5}, 10240),  # LLaVA-NeXT-Video-7B
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "dynamic", "factor": 2.0}, 4096),  # fixed tables up to there only
    ],
)
def test_the_context_is_as_long_as_a_stretched_rope_makes_it(rope, length):
    hf = build("llava_next_video")
    hf.config.get_text_config().rope_parameters |= rope
    assert HFVideoModel(hf, processor("llava_next_video")).shape.context_length == length
