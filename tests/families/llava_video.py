"""Tiny LLaVA-Video: SigLIP and Qwen2, squashed frames, a newline behind every row of them."""

from typing import Any

from transformers import PreTrainedConfig, ProcessorMixin

from tests.families.base import language, tokenizer
from x2l.models.llava_video import IMAGE, NEWLINE, VIDEO, LlavaVideoConfig, llava_video_processor

# An odd number of patches along a side, as the published 27, shows that pooling rounds up: 5 -> 3.
SIDE, PATCH = 40, 8


def processor() -> ProcessorMixin:
    """3x3 visual tokens a frame and a newline a row."""
    words = tokenizer(IMAGE, VIDEO, NEWLINE)
    return llava_video_processor(words, config(words))


def config(words: Any) -> PreTrainedConfig:
    """As its processor's."""
    return LlavaVideoConfig(
        text_config=language(words, model_type="qwen2"),
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        video_token_index=words.convert_tokens_to_ids(VIDEO),
        newline_token_index=words.convert_tokens_to_ids(NEWLINE),
    )
