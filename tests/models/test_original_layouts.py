"""Folders in their authors' layout: no strange value and no missing file is met later than in one line."""

import json

import pytest

from tests import llava_video, video_xl
from tests.strange import accepted
from x2l.models.loading import load, outline

WRITERS = {
    "video_xl": video_xl.checkpoint,
    "llava_video": llava_video.checkpoint,
    "longva": lambda folder: llava_video.checkpoint(folder, "longva"),
}
# What nothing here reads, or only to tell it on.
UNREAD = [
    "architectures",
    "attention_dropout",
    "beacon_embed_init",
    "beacon_ratio",
    "beacon_ratio_mix",
    "force_sample",
    "image_aspect_ratio",
    "max_window_layers",
    "mm_spatial_pool_out_channels",
    "pos_skipping_range",
    "sliding_window",
    "tokenizer_padding_side",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_pos_skipping",
    "vision_config.architectures",
    "vision_config.attention_dropout",
    "vision_config.model_type",
    "vision_config.projection_dim",
    "vision_config.torch_dtype",
]
UNREAD_BY = {
    "video_xl": ["mm_vision_tower", "tokenizer_model_max_length"],
    "llava_video": ["mm_spatial_pool_stride"],
    "longva": [],
}
# Strange values that mean something; sizes that are not the weights' are refused when these are read.
MEANT = {
    "video_xl": {
        "bos_token_id": [None, 0],
        "eos_token_id": [None, [1], 0],
        "mm_resampler_type": [None],
        "mm_vision_select_layer": [-1, 0],
        "rope_theta": [10**9],
        "vision_config.num_channels": [10**9],
    },
    "llava_video": {
        "add_faster_video": [None],
        "add_time_instruction": [None, 0],
        "rope_theta": [10**9],
        "tokenizer_model_max_length": [None],
    },
    "longva": {"tokenizer_model_max_length": [None]},
}


@pytest.fixture(params=WRITERS)
def layout(request, tmp_path):
    return request.param, WRITERS[request.param](tmp_path)


def test_no_strange_value_of_a_configuration_is_met_later(layout):
    kind, folder = layout
    path = folder / "config.json"

    def read(strange):
        path.write_text(json.dumps(strange))
        outline(str(folder))

    values = json.loads(path.read_text())
    taken = accepted(values, read, f"model.name_or_path={str(folder)!r}: ")
    unread = [*UNREAD, *UNREAD_BY[kind]]
    assert {name: values for name, values in taken.items() if name not in unread} == MEANT[kind]


def refused(folder):
    with pytest.raises((ValueError, OSError)) as caught:
        load(str(folder))
    said = str(caught.value)
    assert said.startswith(f"model.name_or_path={str(folder)!r}: ") and "\n" not in said
    return said


def test_without_its_words_all_questions_would_be_alike(layout):
    (layout[1] / "tokenizer.json").unlink()
    assert "tokenizer" in refused(layout[1])


def test_marks_of_the_template_that_the_tokenizer_takes_apart_are_refused(layout):
    _, folder = layout
    for file in ("tokenizer.json", "tokenizer_config.json"):
        told = (folder / file).read_text()
        (folder / file).write_text(told.replace("<|im_start|>", "<|other|>"))
    assert "takes <|im_start|> apart: must be one token" in refused(folder)
