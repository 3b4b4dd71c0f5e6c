"""LLaVA-Video and LongVA in their official layout against what the official code computed from tiny random weights."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.llava_video import (
    ABOUT,
    CASES,
    FULL,
    checkpoint,
    differences,
    frames,
    loaded,
    official_prompt,
    question,
    recorded,
    video_embeds,
)
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import answer
from x2l.engine.prefill import prefill
from x2l.models.checkpoint import locate, read_config
from x2l.models.loading import load


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return cache(lambda case: loaded(tmp_path_factory.mktemp("official"), case))


@pytest.mark.parametrize("case", CASES)
def test_embeddings_logits_and_tokens_are_the_official_ones(models, case):
    """Whole, and at every size of a chunk."""
    for chunk_frames in range(1, 7):
        off = differences(models(case), case, chunk_frames)
        assert off.embeds < 1e-5 and off.logits < 1e-5 and off.same_tokens


def test_options_as_they_run_are_told(tmp_path):
    source = locate(str(checkpoint(tmp_path)), None, False)
    said = {"mm_spatial_pool_mode": "bilinear", "mm_newline_position": "grid", "newlines": "text"}
    assert read_config(source).original == said | {"add_time_instruction": True}
    changed = read_config(source, {"mm_spatial_pool_mode": "average"}).original
    assert changed["mm_spatial_pool_mode"] == "average"


@pytest.mark.parametrize(
    ("case", "other"), [("bilinear.grid", "bilinear.frame"), ("bilinear.grid", "average.grid")]
)
def test_another_layout_gives_other_embeddings(models, case, other):
    """The comparison would notice: the same pictures, other newlines or another pooling."""
    ours = video_embeds(models(other), official_prompt(models(other), other, 6))
    theirs = recorded()[f"{case}.inputs_embeds"][CASES[case]["visual_start"] :][: len(ours)]
    assert (ours - theirs).abs().max() > 0.1


@pytest.mark.parametrize(
    ("case", "rows", "newlines"),
    [("bilinear.grid", 5, 5), ("average.grid", 4, 4), ("bilinear.frame", 5, 1), ("unires", 4, 0)],
)
def test_newlines_are_text_of_their_own_frame(models, case, rows, newlines):
    model = models(case)
    prompt = official_prompt(model, case, 4)
    for chunk, count in zip(prompt.chunks, (4, 2), strict=True):
        assert (
            chunk.grid == (count, rows, rows) and int((~chunk.is_visual).sum()) == count * newlines
        )
        ids = prompt.input_ids[chunk.start : chunk.stop]
        assert newlines == 0 or int(ids[-1]) == model.hf.config.newline_token_index
    store = prefill(model, prompt, {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 25)})
    kept = [kv.layers[0].tokens for kv in store.levels["high"]]
    assert kept == [-(-count * rows * rows // 25) + count * newlines for count in (4, 2)]


def test_newlines_may_follow_their_row(tmp_path):
    """As the last column of their frame's grid: no floor, and at ratio 1 the official numbers."""
    options = {"newlines": "row", "add_time_instruction": False}
    model = load(str(checkpoint(tmp_path)), original=options)
    off = differences(model, "bilinear.grid", 4)
    assert off.embeds < 1e-5 and off.logits < 1e-5 and off.same_tokens
    prompt = official_prompt(model, "bilinear.grid", 4)
    assert [chunk.grid for chunk in prompt.chunks] == [(4, 5, 6), (2, 5, 6)]
    assert all(chunk.is_visual.all() for chunk in prompt.chunks)
    levels = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 30)}
    store = prefill(model, prompt, levels)
    assert [kv.layers[0].tokens for kv in store.levels["high"]] == [4, 2]
    assert store.measured_ratio("high") == 30
    asked = question("bilinear.grid")
    assert answer(model, store, asked, store.reloading(()), 2).token_ids


@pytest.mark.parametrize(
    ("kind", "original", "message"),
    [
        ("llava_video", {"newlines": "column"}, "newlines='column': must be 'text' or 'row' with"),
        (
            "llava_video",
            {"newlines": "row", "mm_newline_position": "frame"},
            "must be 'text' with mm_newline_position='frame'",
        ),
        ("longva", {"newlines": "row"}, "must be 'text' with mm_newline_position='no_token'"),
    ],
)
def test_newlines_that_end_no_row_have_none_to_follow(tmp_path, kind, original, message):
    with pytest.raises(ValueError, match=message):
        load(str(checkpoint(tmp_path, kind)), original=original)


def test_frames_are_resized_as_officially(models):
    """The official code resizes with PIL, which rounds to whole grey levels elsewhere: two of 255 at most."""
    for case, name in (("bilinear.grid", "resized_uint8"), ("unires", "longva_resized_uint8")):
        processor = models(case).processor.video_processor
        pixels = recorded()["frames_uint8"].permute(0, 3, 1, 2)
        prepared = processor(videos=[pixels], return_tensors="pt")["pixel_values_videos"][0]
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std)
        )
        levels = ((prepared * std + mean) * 255 - recorded()[name]).abs()
        assert levels.max() < 2.01 and levels.mean() < 0.05


def test_the_checkpoint_says_whether_times_are_told(tmp_path, models):
    model = load(str(checkpoint(tmp_path)))
    video = replace(frames(recorded()["frames_uint8"]), seconds=torch.arange(6).double() * 1.25)
    prompt, asked = model.prompt(video, 4), model.question("What?")
    ids = torch.cat([prompt.input_ids, asked.input_ids]).tolist()
    text = model.processor.tokenizer.decode(ids)
    for mark in ("<video>", "<image_newline>"):
        text = text.replace(mark, "")
    times = "0.00s,1.25s,2.50s,3.75s,5.00s,6.25s"
    told = (
        "The video lasts for 6.00 seconds, and 6 frames are uniformly sampled from it. These frames are located at "
        f"{times}.Please answer the following questions related to this video."
    )
    wanted = ABOUT["prompt_qwen_1_5"].replace("<image>\nQUESTION", f"\n{told}\nWhat?")
    assert text == wanted
    assert [chunk.visual_tokens for chunk in prompt.chunks] == [100, 50]
    assert (
        int((~prompt.chunks[0].is_visual).sum()) == 20
    )  # the sentence stands behind the last frame
    silent = models("bilinear.grid")
    ids = torch.cat([silent.prompt(video, 4).input_ids, silent.question("What?").input_ids])
    assert "lasts" not in silent.processor.tokenizer.decode(ids)
    store = prefill(model, prompt, FULL)
    assert answer(model, store, asked, store.reloading((0,)), 2).token_ids


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llava_video", {"mm_patch_merge_type": "flat"}, "mm_patch_merge_type='flat': must be"),
        ("llava_video", {"mm_spatial_pool_mode": "max"}, "mm_spatial_pool_mode='max'"),
        ("llava_video", {"mm_spatial_pool_mode": None}, "mm_spatial_pool_mode=None"),
        ("llava_video", {"mm_newline_position": "row"}, "mm_newline_position='row'"),
        ("llava_video", {"add_faster_video": True}, "add_faster_video=True: must be False"),
        ("llava_video", {"mm_projector_type": "linear"}, "mm_projector_type='linear'"),
        ("llava_video", {"mm_resampler_type": "qformer"}, "mm_resampler_type='qformer'"),
        ("llava_video", {"mm_vision_tower": "eva"}, "mm_vision_tower='eva'"),
        ("llava_video", {"mm_use_im_start_end": True}, "mm_use_im_start_end=True"),
        ("llava_video", {"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        ("llava_video", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("llava_video", {"mm_vision_select_layer": -1}, "mm_vision_select_layer=-1"),
        ("llava_video", {"rope_theta": None}, "rope_theta is missing"),
        ("llava_video", {"mm_hidden_size": 48}, "mm_hidden_size=48: must be 32"),
        ("llava_video", {"vocab_size": 254}, "must be at most vocab_size=254"),
        ("longva", {"mm_spatial_pool_stride": 4}, "mm_spatial_pool_stride=4: must be 2"),
        ("longva", {"mm_spatial_pool_mode": "bilinear"}, "mm_spatial_pool_mode='bilinear'"),
        ("longva", {"add_time_instruction": True}, "add_time_instruction=True"),
    ],
)
def test_what_was_not_shown_equal_is_refused(tmp_path, kind, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(str(checkpoint(tmp_path, kind, **changes)))
    assert len(str(caught.value).splitlines()) == 1


def test_options_that_are_not_there_and_weights_of_others_are_refused(tmp_path):
    folder = checkpoint(tmp_path)
    with pytest.raises(
        ValueError, match=r"model\.original\.mm_resampler_type=None: must be one of"
    ):
        load(str(folder), original={"mm_resampler_type": None})
    with pytest.raises(
        ValueError, match=r"model\.original\.mm_spatial_pool_mode='average': it has no"
    ):
        load(original={"mm_spatial_pool_mode": "average"})
    state = load_file(folder / "model.safetensors")
    save_file(state | {"model.faster_token": torch.zeros(64)}, folder / "model.safetensors")
    with pytest.raises(OSError, match="model.faster_token"):
        load(str(folder))


def test_the_stride_is_ignored_as_officially_and_a_long_prompt_is_not_cut(tmp_path):
    changes = {"mm_spatial_pool_stride": 4, "tokenizer_model_max_length": 300}
    model = load(str(checkpoint(tmp_path, **changes)))
    assert model.hf.config.get_text_config().max_position_embeddings == 300
    assert model.prompt(frames(recorded()["frames_uint8"]), 4).chunks[0].grid == (4, 5, 5)
