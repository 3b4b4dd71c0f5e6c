"""Tiny Video-XL: CLIP and Qwen2, square frames of which the sides are cut, summary tokens of its own."""

from typing import Any

from transformers import PreTrainedConfig, ProcessorMixin

from tests.families.base import language, tokenizer
from x2l.models.video_xl import IMAGE, VIDEO, VideoXLConfig, video_xl_processor

SIDE, PATCH = 48, 8


def processor() -> ProcessorMixin:
    """3x3 visual tokens a frame, and no newline behind the last one."""
    words = tokenizer(IMAGE, VIDEO)
    return video_xl_processor(words, config(words))


def config(words: Any) -> PreTrainedConfig:
    """CLIP without its last layer, and Qwen2."""
    return VideoXLConfig(
        text_config=language(words, model_type="qwen2"),
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": 32,
            "initializer_range": 0.2,
        },
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        video_token_index=words.convert_tokens_to_ids(VIDEO),
    )
