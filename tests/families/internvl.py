"""Tiny InternVL3 as Hugging Face ships it: `Frame1: <img>...</img>` lines, pixel shuffle, Qwen2 or Qwen3 behind it."""

from typing import Any

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedConfig,
    ProcessorMixin,
)

from tests.families.base import EXPERTS, language, tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIDE, PATCH = 48, 8
TOKENS = (SIDE // PATCH // 2) ** 2


def processor() -> ProcessorMixin:
    """3x3 visual tokens a frame."""
    size = {"height": SIDE, "width": SIDE}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, max_patches=1),
        tokenizer=tokenizer(
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        ),
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=TOKENS,
        chat_template=TEMPLATE,
    )


def _config(words: Any, text: dict[str, Any]) -> PreTrainedConfig:
    return InternVLConfig(
        text_config=text,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "attention_bias": True,
            "image_size": SIDE,
            "patch_size": PATCH,
            "initializer_range": 0.2,
        },
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=TOKENS,
        tie_word_embeddings=False,
    )


def config(words: Any) -> PreTrainedConfig:
    """With Qwen2, as InternVL3."""
    return _config(words, language(words, model_type="qwen2"))


def qwen3_config(words: Any) -> PreTrainedConfig:
    """With Qwen3, as InternVL3.5: normalised queries and keys, heads wider than hidden / heads."""
    return _config(words, language(words, model_type="qwen3", head_dim=16))


def qwen3_moe_config(words: Any) -> PreTrainedConfig:
    """With Qwen3's mixture of experts, as InternVL3.5's largest; one of the layers is dense."""
    text = language(words, model_type="qwen3_moe", head_dim=16, mlp_only_layers=[1], **EXPERTS)
    return _config(words, text | {"norm_topk_prob": True})


def llama_config(words: Any) -> PreTrainedConfig:
    """With Llama."""
    return _config(words, language(words, model_type="llama"))
