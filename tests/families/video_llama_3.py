"""Tiny VideoLLaMA3: `Time 1.0s:` before each frame, similar tokens dropped, one pixel budget for all frames."""

from typing import Any

from transformers import (
    PreTrainedConfig,
    ProcessorMixin,
    VideoLlama3Config,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
)

from tests.families.base import language, tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{ '<|video_pad|>\n' }}"
    "{% elif part['type'] == 'image' %}{{ '<|image_pad|>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def processor() -> ProcessorMixin:
    """16 pixels a visual token along one side; all frames together have 8 * 64 * 64 pixels at most."""
    return VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(
            size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, patch_size=8, merge_size=1
        ),
        tokenizer=tokenizer(),
        video_processor=VideoLlama3VideoProcessor(
            size={"shortest_edge": 16 * 16, "longest_edge": 8 * 64 * 64}, patch_size=8, merge_size=2
        ),
        chat_template=TEMPLATE,
    )


def config(words: Any) -> PreTrainedConfig:
    """A SigLIP-like tower with axial RoPE, and Qwen2."""
    return VideoLlama3Config(
        text_config=language(words, model_type="qwen2"),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "patch_size": 8,
            "initializer_range": 0.2,
        },
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
    )
