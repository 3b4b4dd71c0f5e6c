"""Checkpoints in the layout of their authors' own code, and how stock classes load them: one entry each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from x2l.models.llava_video import KEY_MAPPING as LLAVA_VIDEO_MAPPING
from x2l.models.llava_video import (
    OPTIONS,
    is_llava_video,
    llava_video_config,
    llava_video_processor,
)
from x2l.models.video_xl import KEY_MAPPING, is_video_xl, video_xl_config, video_xl_processor


@dataclass(frozen=True)
class OriginalLayout:
    """How a checkpoint that transformers has no class for becomes one of a class that x2l runs.

    Attributes:
        recognises: whether the values of a config.json are of this layout.
        config: those values -> the configuration of the class; ValueErrors name key, value, rule and remedy.
        key_mapping: patterns of the weights' names there -> names in the class, for `from_pretrained`.
        processor: (tokenizer, configuration) -> the processor, where the repository has none. May set ids of
            placeholders in the configuration.
        options: keys of config.json that `model.original` may say something else of -> what the configuration calls it.
    """

    recognises: Callable[[Mapping[str, Any]], bool]
    config: Callable[[Mapping[str, Any]], Any]
    key_mapping: Mapping[str, str]
    processor: Callable[[Any, Any], Any]
    options: Mapping[str, str] = field(default_factory=dict)


LAYOUTS = (
    OriginalLayout(is_video_xl, video_xl_config, KEY_MAPPING, video_xl_processor),
    OriginalLayout(
        is_llava_video, llava_video_config, LLAVA_VIDEO_MAPPING, llava_video_processor, OPTIONS
    ),
)


def layout_of(values: Mapping[str, Any]) -> OriginalLayout | None:
    """The layout that a config.json is of; None = transformers' own."""
    return next((layout for layout in LAYOUTS if layout.recognises(values)), None)
