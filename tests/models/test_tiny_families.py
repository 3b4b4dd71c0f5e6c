"""The stock models and processors that other tests take for the truth: each is whole, consistent and sees its video."""

import dataclasses
import re

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.tiny import FAMILIES, build, frames, processor, save, stock, stock_inputs

# Token that stands for a piece of the video, visual tokens of 6 and of 14 frames of 64x64 pixels.
VISUAL = {
    "qwen2_vl": ("<|video_pad|>", 3 * 16, 7 * 16),
    "qwen2_5_vl": ("<|video_pad|>", 3 * 16, 7 * 16),
    "qwen3_vl": ("<|video_pad|>", 3 * 16, 7 * 9),  # a pixel budget for all frames together
    "llava_onevision": ("<video>", 6 * 9 + 1, 14 * 9 + 1),  # the newline
    "llava_next_video": ("<video>", 6 * 9, 14 * 9),
    "video_xl": ("<video>", 6 * 9, 14 * 9),
    "internvl": ("<IMG_CONTEXT>", 6 * 9, 14 * 9),
    "internvl_qwen3": ("<IMG_CONTEXT>", 6 * 9, 14 * 9),
    "video_llama_3": ("<|video_pad|>", 6 * 16, 14 * 9),  # a budget here, too
    "smolvlm": ("<image>", 6 * 9, 14 * 9),
    "glm4v": ("<|image|>", 3 * 16, 7 * 9),  # and here
}
# What stands in the prompt for three frames at 0, 1.25 and 62.5 s of a video of 3725.9 s; * = visual tokens.
SPAN = {
    "qwen2_vl": "<|vision_start|>*<|vision_end|>",
    "qwen2_5_vl": "<|vision_start|>*<|vision_end|>",
    "qwen3_vl": "<|vision_start|><0.6 seconds><|vision_start|>*<|vision_end|>"
    "<62.5 seconds><|vision_start|>*<|vision_end|><|vision_end|>",
    "llava_onevision": "<|im_start|>user *\n",
    "llava_next_video": "USER: *\n",
    "video_xl": "<|im_start|>user\n*\n",
    "internvl": "Frame1: <img>*</img>\nFrame2: <img>*</img>\nFrame3: <img>*</img>\n",
    "internvl_qwen3": "Frame1: <img>*</img>\nFrame2: <img>*</img>\nFrame3: <img>*</img>\n",
    "video_llama_3": "Time 0.0s:*,Time 1.2s:*,Time 62.5s:*\n",
    "smolvlm": "You are provided the following series of three frames from a 1:02:05 [H:MM:SS] video.\n"
    "\nFrame from 00:00:<fake_token_around_image><global-img>*<fake_token_around_image>"
    "\nFrame from 00:01:<fake_token_around_image><global-img>*<fake_token_around_image>"
    "\nFrame from 01:02:<fake_token_around_image><global-img>*<fake_token_around_image>\n\n",
    "glm4v": "<|begin_of_video|><|begin_of_image|>*<|end_of_image|>0"
    "<|begin_of_image|>*<|end_of_image|>62<|end_of_video|>",
}
QUESTION = "What is shown?"


@torch.no_grad()
def logits(family, video):
    return stock(family)(**stock_inputs(family, video, QUESTION)).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_forward_takes_the_processors_prompt(family):
    for count, size in ((6, (64, 64)), (7, (64, 96)), (14, (50, 70))):
        out = logits(family, frames(count, size=size))
        assert out.shape[-1] == len(processor(family).tokenizer)
        assert out.isfinite().all() and out.abs().max() > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_number_of_visual_tokens(family):
    token, of_six, of_fourteen = VISUAL[family]
    visual = processor(family).tokenizer.convert_tokens_to_ids(token)
    for count, expected in ((6, of_six), (14, of_fourteen)):
        assert int((stock_inputs(family, frames(count))["input_ids"] == visual).sum()) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_follow_the_video(family):
    video = frames(6)
    changed = video.pixels.clone()
    changed[4] = frames(1, seed=1).pixels[0]
    other_frame = logits(family, dataclasses.replace(video, pixels=changed))[-1]
    other_order = logits(family, dataclasses.replace(video, pixels=video.pixels.flip(0)))[-1]
    reference = logits(family, video)[-1]
    assert (other_frame - reference).abs().max() > 0.1
    assert (other_order - reference).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_text_around_frames_tells_the_files_own_times(family):
    times = torch.tensor([0.0, 1.25, 62.5], dtype=torch.float64)
    video = dataclasses.replace(frames(3), seconds=times, duration=3725.9)
    text = processor(family).tokenizer.decode(stock_inputs(family, video)["input_ids"][0])
    assert SPAN[family] in re.sub(f"({re.escape(VISUAL[family][0])})+", "*", text)


def test_qwen3_vl_without_marks_around_all_frames():
    words = processor("qwen3_vl").tokenizer
    wrapped, plain = (
        words.decode(stock_inputs("qwen3_vl", frames(4), unwrapped=bare)["input_ids"][0])
        for bare in (False, True)
    )
    assert "user\n<|vision_start|><0.5 seconds><|vision_start|>" in wrapped
    assert "<|vision_end|><|vision_end|>What" in wrapped
    assert "user\n<0.5 seconds><|vision_start|>" in plain and "|><|vision_end|>What" in plain
    assert "<|vision_end|><|vision_end|>" not in plain


def test_video_llama_3_drops_what_did_not_change():
    still = frames(6)
    still.pixels[3] = still.pixels[2]
    inputs = stock_inputs("video_llama_3", still)
    per_frame = inputs["video_compression_mask"].view(6, 16).sum(1).tolist()
    assert per_frame == [16, 16, 16, 1, 16, 16]
    assert int((inputs["input_ids"] == stock("video_llama_3").config.video_token_id).sum()) == 81
    with torch.no_grad():
        assert stock("video_llama_3")(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_generate(family):
    inputs = stock_inputs(family, frames(6))
    model = stock(family)
    out = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    assert len(new) == 4
    with torch.no_grad():
        assert int(model(**inputs).logits[0, -1].argmax()) == int(new[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_reproducible_and_none_is_left_at_zero(family):
    first, again = build(family), build(family)
    for (name, weight), same in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, same), name
        assert weight.any() or family.startswith("qwen2"), name


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_classes_load_a_saved_folder(family, tmp_path):
    save(family, tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa")
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is type(stock(family)) and type(loaded) is type(processor(family))
    assert type(loaded.video_processor) is type(processor(family).video_processor)
    assert model.generation_config.eos_token_id == loaded.tokenizer.eos_token_id
    video = frames(7, size=(64, 96))
    inputs = stock_inputs(family, video, QUESTION)
    for name, value in stock_inputs(family, video, QUESTION, loaded).items():
        assert torch.equal(value, inputs[name]), name
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits[0], logits(family, video))
