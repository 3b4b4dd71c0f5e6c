"""Tiny LLaVA-OneVision and LLaVA-NeXT-Video: frames of one fixed size, no text between them, one axis of positions."""

from typing import Any

from tokenizers.pre_tokenizers import ByteLevel, Metaspace, Sequence
from transformers import (
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedConfig,
    ProcessorMixin,
)

from tests.families.base import language, tokenizer

ONEVISION_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] %}{% if part['type'] in ('image', 'video') %}"
    "<{{ part['type'] }}>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "{{ '\n' + part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Its tokenizer puts <s> before the prompt; the template does not.
NEXT_VIDEO_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() }}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] in ('image', 'video') %}"
    "{{ '<' + part['type'] + '>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# Llama puts a space before the first piece of a text, and before no other.
LLAMA_SPLITTING = Sequence(
    [
        Metaspace(replacement=" ", prepend_scheme="first", split=False),
        ByteLevel(add_prefix_space=False),
    ]
)
# An odd number of patches along a side, as the published 27, shows that pooling rounds up: 5 -> 3.
ONEVISION_SIDE, NEXT_VIDEO_SIDE, PATCH = 40, 48, 8


def onevision_processor() -> ProcessorMixin:
    """3x3 visual tokens a frame, and one newline after the last frame."""
    size = {"height": ONEVISION_SIDE, "width": ONEVISION_SIDE}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[ONEVISION_SIDE, ONEVISION_SIDE]]
        ),
        tokenizer=tokenizer("<image>", "<video>"),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(ONEVISION_SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION_TEMPLATE,
    )


def next_video_processor() -> ProcessorMixin:
    """3x3 visual tokens a frame: resized by its short side, then cropped to a square."""
    size = {"shortest_edge": NEXT_VIDEO_SIDE}
    crop = {"height": NEXT_VIDEO_SIDE, "width": NEXT_VIDEO_SIDE}
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(size=size, crop_size=crop),
        image_processor=LlavaNextImageProcessor(
            size=size, crop_size=crop, image_grid_pinpoints=[[NEXT_VIDEO_SIDE, NEXT_VIDEO_SIDE]]
        ),
        tokenizer=tokenizer("<image>", "<video>", bos="<s>", splitting=LLAMA_SPLITTING),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=NEXT_VIDEO_TEMPLATE,
    )


def _tower(side: int) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": side,
        "patch_size": PATCH,
    }


def _ids(words: Any) -> dict[str, int]:
    return {
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "video_token_index": words.convert_tokens_to_ids("<video>"),
    }


def onevision_config(words: Any) -> PreTrainedConfig:
    """SigLIP and Qwen2."""
    return LlavaOnevisionConfig(
        text_config=language(words, model_type="qwen2"),
        vision_config=_tower(ONEVISION_SIDE)
        | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_grid_pinpoints=[[ONEVISION_SIDE, ONEVISION_SIDE]],
        **_ids(words),
    )


def next_video_config(words: Any) -> PreTrainedConfig:
    """CLIP and Llama."""
    return _next_video_config(words, language(words, model_type="llama"))


def next_video_mistral_config(words: Any) -> PreTrainedConfig:
    """CLIP and Mistral without a sliding window, as the 32k checkpoint."""
    text = language(words, model_type="mistral", sliding_window=None)
    return _next_video_config(words, text)


def _next_video_config(words: Any, text: dict[str, Any]) -> PreTrainedConfig:
    return LlavaNextVideoConfig(
        text_config=text,
        vision_config=_tower(NEXT_VIDEO_SIDE)
        | {"model_type": "clip_vision_model", "projection_dim": 32, "initializer_range": 0.2},
        image_grid_pinpoints=[[NEXT_VIDEO_SIDE, NEXT_VIDEO_SIDE]],
        image_seq_length=36,
        video_seq_length=9,
        **_ids(words),
    )
