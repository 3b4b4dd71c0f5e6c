"""Tiny GLM-4.1V: each time step between image marks, its second behind it; M-RoPE on part of each head, interleaved."""

from typing import Any

from transformers import (
    Glm4vConfig,
    Glm4vImageProcessor,
    Glm4vMoeConfig,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    PreTrainedConfig,
    ProcessorMixin,
)

from tests.families.base import EXPERTS, language, tokenizer

TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_MARKS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}


def processor() -> ProcessorMixin:
    """16 pixels a visual token along one side; all frames together have 8 * 64 * 64 pixels at most."""
    patches = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    return Glm4vProcessor(
        image_processor=Glm4vImageProcessor(
            size={"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 64 * 64}, **patches
        ),
        tokenizer=tokenizer(
            "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", *_MARKS.values()
        ),
        video_processor=Glm4vVideoProcessor(
            size={"shortest_edge": 2 * 16 * 16, "longest_edge": 8 * 64 * 64}, **patches
        ),
        chat_template=TEMPLATE,
    )


def config(words: Any) -> PreTrainedConfig:
    """Six of eight dimensions of a head are rotated, two for each axis."""
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "mrope_section": [1, 1, 1],
    }
    return Glm4vConfig(
        text_config=language(words, rope_parameters=rope), vision_config=_VISION, **_ids(words)
    )


def moe_config(words: Any) -> PreTrainedConfig:
    """GLM-4.5V: half of each head is rotated; one dense layer, then groups of experts and a shared one."""
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 2, 1],
    }
    groups = {"n_group": 2, "topk_group": 1, "n_shared_experts": 1, "routed_scaling_factor": 1.5}
    experts = EXPERTS | groups | {"first_k_dense_replace": 1}
    text = language(words, rope_parameters=rope, head_dim=16, **experts)
    return Glm4vMoeConfig(text_config=text, vision_config=_VISION, **_ids(words))


_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "in_channels": 3,
    "image_size": 32,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
    "initializer_range": 0.2,
}


def _ids(words: Any) -> dict[str, int]:
    return {name: words.convert_tokens_to_ids(token) for name, token in _MARKS.items()}
