"""Tiny SmolVLM2: an introduction, `Frame from 00:01:` before each frame, marks around it; pixel shuffle; Llama."""

from typing import Any

from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    PreTrainedConfig,
    ProcessorMixin,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.families.base import language, tokenizer

# For a conversation with a video the processor ignores this and takes a template of its own.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
SIDE, PATCH, SHUFFLE = 48, 8, 2
TOKENS = (SIDE // PATCH // SHUFFLE) ** 2
# SmolLM2 cuts text like GPT-2: an empty line is one token at the end of a text, but not before a word. The empty line
# after the last frame therefore belongs to the question.
SPLITTING = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def processor() -> ProcessorMixin:
    """3x3 visual tokens a frame."""
    sizes = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=tokenizer(
            "<end_of_utterance>",
            "<row_1_col_1>",
            splitting=SPLITTING,
            merged=("Ċ", "Ċ"),
            fake_image_token="<fake_token_around_image>",
            image_token="<image>",
            global_image_token="<global-img>",
            video_token="<video>",
        ),
        video_processor=SmolVLMVideoProcessor(num_frames=64, fps=1, **sizes),
        image_seq_len=TOKENS,
        chat_template=TEMPLATE,
    )


def config(words: Any) -> PreTrainedConfig:
    """A SigLIP-like tower, and Llama."""
    return SmolVLMConfig(
        text_config=language(words, model_type="llama"),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
            "initializer_range": 0.2,
        },
        scale_factor=SHUFFLE,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=words.pad_token_id,
    )
