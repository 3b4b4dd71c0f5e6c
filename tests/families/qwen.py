"""Tiny Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from typing import Any

from transformers import (
    AutoProcessor,
    PreTrainedConfig,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.families.base import EXPERTS, TINY, language, tokenizer

# Nothing is said for a missing system turn, unlike Qwen2-VL; the processor writes times and frames for the placeholder.
QWEN3_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen2_5_processor() -> ProcessorMixin:
    """The processor of x2l_tiny: about 64 * 64 pixels whatever the frame's size, two frames a time step."""
    return AutoProcessor.from_pretrained(TINY)


def qwen2_processor() -> ProcessorMixin:
    """The same parts behind Qwen2-VL's class, which does not tell the seconds between time steps."""
    parts = qwen2_5_processor()
    return Qwen2VLProcessor(
        parts.image_processor, parts.tokenizer, parts.video_processor, parts.chat_template
    )


def qwen3_processor() -> ProcessorMixin:
    """16 pixels a visual token along one side; all frames together have 8 * 64 * 64 pixels at most."""
    patches = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, **patches
        ),
        tokenizer=tokenizer(),
        video_processor=Qwen3VLVideoProcessor(
            size={"shortest_edge": 2 * 16 * 16, "longest_edge": 8 * 64 * 64},
            cap_pixels_per_frame=False,
            **patches,
        ),
        chat_template=QWEN3_TEMPLATE,
    )


def _ids(words: Any) -> dict[str, int]:
    return {
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }


def _text(words: Any, **rope: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]} | rope
    return language(words, rope_parameters=rope)


_VISION = {
    "depth": 3,
    "num_heads": 4,
    "in_channels": 3,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": 0.2,
}


def qwen2_config(words: Any) -> PreTrainedConfig:
    """Qwen2-VL."""
    vision = _VISION | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    text = _text(words) | {"bos_token_id": words.pad_token_id}
    return Qwen2VLConfig(text_config=text, vision_config=vision, **_ids(words))


def qwen2_5_config(words: Any) -> PreTrainedConfig:
    """Qwen2.5-VL with windows of 2x2 visual tokens in all vision layers but one."""
    vision = _VISION | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
        "window_size": 32,
        "tokens_per_second": 2,
    }
    text = _text(words) | {"bos_token_id": words.pad_token_id}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_ids(words))


def qwen3_config(words: Any) -> PreTrainedConfig:
    """Qwen3-VL with deepstack from two vision layers, heads wider than hidden / heads, interleaved M-RoPE."""
    return Qwen3VLConfig(text_config=_text3(words), vision_config=_VISION3, **_ids(words))


def qwen3_moe_config(words: Any) -> PreTrainedConfig:
    """Qwen3-VL with a mixture of experts in every other layer."""
    text = _text3(words) | EXPERTS | {"decoder_sparse_step": 2}
    return Qwen3VLMoeConfig(text_config=text, vision_config=_VISION3, **_ids(words))


_VISION3 = _VISION | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}


def _text3(words: Any) -> dict[str, Any]:
    return _text(words, mrope_section=[4, 2, 2], mrope_interleaved=True) | {"head_dim": 16}
