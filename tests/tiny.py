"""Tiny random models and frames for tests. Nothing is downloaded; weights are large enough for attention to matter."""

from functools import lru_cache
from pathlib import Path

import torch
from transformers import (
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from x2l.models.hf import HFVideoModel
from x2l.video import Frames

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
PACKAGED = Path(__file__).parents[1] / "x2l" / "assets" / "x2l_tiny"


@lru_cache
def processor():
    return AutoProcessor.from_pretrained(PACKAGED)


def build(family: str, dtype: torch.dtype = torch.float32):
    """A stock model with random weights: 4 layers, 8 query heads over 2 KV heads, windowed vision for 2.5."""
    tokenizer = processor().tokenizer
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
        },
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 3,
        "num_heads": 4,
        "in_channels": 3,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    ids = {
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "initializer_range": 0.2}
        config = Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        cls = Qwen2VLForConditionalGeneration
    else:
        vision |= {
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 32,
            "tokens_per_second": 2,
            "initializer_range": 0.2,
        }
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        cls = Qwen2_5_VLForConditionalGeneration
    torch.manual_seed(0)
    model = cls._from_config(config, attn_implementation="sdpa").eval().to(dtype)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return model


@lru_cache
def stock(family: str, dtype: torch.dtype = torch.float32):
    """The stock model, untouched: the oracle."""
    return build(family, dtype)


@lru_cache
def ours(
    family: str, dtype: torch.dtype = torch.float32, positions: str = "reference"
) -> HFVideoModel:
    """The same weights behind the adapter."""
    return HFVideoModel(build(family, dtype), processor(), positions)


def frames(count: int = 14, seed: int = 0, size: tuple[int, int] = (64, 64)) -> Frames:
    """Random pictures, one a second."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *size, 3), generator=generator, dtype=torch.uint8)
    return Frames(
        pixels, torch.arange(count, dtype=torch.float64), 4.0, float(count), "random.mp4", "decord"
    )
