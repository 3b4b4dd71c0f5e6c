"""Shapes of published checkpoints, by the name of their file in conf/model: what their weights and KVs need.

    python -m experiments.docs.published        # writes it into the head of every conf/model/*.yaml

The numbers are those of each repository's config.json. Where that could not be read here, they follow from the model it
is built on; conf/model says which.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import x2l.models  # noqa: F401 - before transformers: it lets the processors import

# isort: split
import torch
from omegaconf import OmegaConf
from transformers import (
    Glm4vConfig,
    Glm4vMoeConfig,
    InternVLConfig,
    LlavaNextVideoConfig,
    LlavaOnevisionConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    SmolVLMConfig,
    VideoLlama3Config,
)

from x2l.cli.compose import CONF
from x2l.engine.flops import kv_bytes
from x2l.models.llava_video import SIGLIP_SO400M, LlavaVideoConfig
from x2l.models.loading import weight_bytes
from x2l.models.shape import model_shape
from x2l.models.video_xl import CLIP_L_336, VideoXLConfig

Text = tuple[
    int, int, int, int, int, int
]  # hidden, intermediate, layers, heads, KV heads, vocabulary


def _text(shape: Text, **others: Any) -> dict[str, Any]:
    hidden, intermediate, layers, heads, kv_heads, vocabulary = shape
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        **others,
    }


def _mrope(section: list[int], theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": section}


def _qwen2_vl(shape: Text, tied: bool) -> PreTrainedConfig:
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
    return Qwen2VLConfig(
        text_config=_text(
            shape, max_position_embeddings=32768, rope_parameters=_mrope([16, 24, 24], 1e6)
        ),
        vision_config={**vision, "hidden_size": shape[0]},
        tie_word_embeddings=tied,
    )


def _qwen2_5_vl(shape: Text, vision_mlp: int, tied: bool) -> PreTrainedConfig:
    vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "patch_size": 14}
    return Qwen2_5_VLConfig(
        text_config=_text(
            shape, max_position_embeddings=128000, rope_parameters=_mrope([16, 24, 24], 1e6)
        ),
        vision_config={
            **vision,
            "intermediate_size": vision_mlp,
            "out_hidden_size": shape[0],
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        tie_word_embeddings=tied,
    )


def _experts(width: int, **others: Any) -> dict[str, Any]:
    return {
        "moe_intermediate_size": width,
        "num_experts_per_tok": 8,
        "num_local_experts": 128,
    } | others


def _qwen3_vl(shape: Text, large_vision: bool, tied: bool, **experts: Any) -> PreTrainedConfig:
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
    vision |= {"deepstack_visual_indexes": [5, 11, 17]}
    if large_vision:
        vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
        vision |= {"deepstack_visual_indexes": [8, 16, 24]}
    kind = Qwen3VLMoeConfig if experts else Qwen3VLConfig
    return kind(
        text_config=_text(
            shape,
            **experts,
            head_dim=128,
            max_position_embeddings=262144,
            rope_parameters={**_mrope([24, 20, 20], 5e6), "mrope_interleaved": True},
        ),
        vision_config={**vision, "num_heads": 16, "patch_size": 16, "out_hidden_size": shape[0]},
        tie_word_embeddings=tied,
    )


def _llava_onevision(shape: Text, tied: bool) -> PreTrainedConfig:
    vision = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304}
    vision |= {"num_hidden_layers": 26, "num_attention_heads": 16, "image_size": 384}
    return LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(shape, tie_word_embeddings=tied)},
        vision_config={**vision, "patch_size": 14, "vision_use_head": False},
        tie_word_embeddings=tied,
    )


def _llava_next_video(model_type: str, shape: Text, **text: Any) -> PreTrainedConfig:
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096}
    vision |= {"num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336}
    return LlavaNextVideoConfig(
        text_config={"model_type": model_type, **_text(shape, **text)},
        vision_config={**vision, "patch_size": 14, "projection_dim": 768},
    )


def _video_xl(shape: Text) -> PreTrainedConfig:
    return VideoXLConfig(
        text_config={"model_type": "qwen2", **_text(shape, tie_word_embeddings=False)},
        vision_config={"model_type": "clip_vision_model", **CLIP_L_336},
        vision_feature_select_strategy="default",
    )


def _llava_video(shape: Text) -> PreTrainedConfig:
    vision = {**SIGLIP_SO400M, "num_hidden_layers": 26, "vision_use_head": False}
    return LlavaVideoConfig(
        text_config={"model_type": "qwen2", **_text(shape, tie_word_embeddings=False)},
        vision_config={"model_type": "siglip_vision_model", **vision},
    )


def _longva(shape: Text) -> PreTrainedConfig:
    return LlavaVideoConfig(
        text_config={"model_type": "qwen2", **_text(shape, tie_word_embeddings=False)},
        vision_config={"model_type": "clip_vision_model", **CLIP_L_336},
        vision_feature_select_strategy="default",
        pool_mode="average",
        newline_position="no_token",
        has_newline=False,
    )


def _internvl(
    model_type: str, shape: Text, large_vision: bool = False, **experts: Any
) -> PreTrainedConfig:
    text: dict[str, Any] = {"max_position_embeddings": 40960, "head_dim": 128}
    if model_type == "qwen2":
        dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}
        text = {"max_position_embeddings": 32768, "rope_parameters": dynamic}
    vision: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096}
    vision |= {"num_hidden_layers": 24, "num_attention_heads": 16}
    if large_vision:
        vision = {"hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 45}
        vision |= {"num_attention_heads": 25, "norm_type": "rms_norm", "use_qk_norm": True}
    return InternVLConfig(
        text_config={
            "model_type": model_type,
            "tie_word_embeddings": False,
            **_text(shape, **text, **experts),
        },
        vision_config={**vision, "image_size": [448, 448], "patch_size": [14, 14]},
        tie_word_embeddings=False,
    )


def _video_llama_3(shape: Text, tied: bool) -> PreTrainedConfig:
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
    return VideoLlama3Config(
        text_config={"model_type": "qwen2", **_text(shape, tie_word_embeddings=tied)},
        vision_config={**vision, "num_attention_heads": 16, "patch_size": 14},
        tie_word_embeddings=tied,
    )


def _smolvlm(shape: Text, scale: int, vision: dict[str, Any]) -> PreTrainedConfig:
    return SmolVLMConfig(
        text_config={
            "model_type": "llama",
            **_text(shape, head_dim=64, max_position_embeddings=8192),
        },
        vision_config=vision,
        scale_factor=scale,
        tie_word_embeddings=False,
    )


def _glm4v(shape: Text) -> PreTrainedConfig:
    rope = {**_mrope([8, 12, 12], 10000.0), "partial_rotary_factor": 0.5}
    vision = {"depth": 24, "hidden_size": 1536, "num_heads": 12, "intermediate_size": 13696}
    return Glm4vConfig(
        text_config=_text(shape, max_position_embeddings=65536, rope_parameters=rope),
        vision_config={**vision, "out_hidden_size": shape[0], "patch_size": 14, "image_size": 336},
    )


def _glm4v_moe(shape: Text) -> PreTrainedConfig:
    rope = {**_mrope([8, 12, 12], 10000.0), "partial_rotary_factor": 0.5}
    experts = _experts(1408, n_shared_experts=1, first_k_dense_replace=1)
    vision = {"depth": 24, "hidden_size": 1536, "num_heads": 12, "intermediate_size": 10944}
    return Glm4vMoeConfig(
        text_config=_text(
            shape, head_dim=128, max_position_embeddings=65536, rope_parameters=rope, **experts
        ),
        vision_config={**vision, "out_hidden_size": shape[0], "patch_size": 14, "image_size": 336},
    )


_SIGLIP_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_SIGLIP_BASE |= {"num_attention_heads": 12, "image_size": 512, "patch_size": 16}
_SIGLIP_SO = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
_SIGLIP_SO |= {"num_attention_heads": 16, "image_size": 384, "patch_size": 14}
_LINEAR = {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}

SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen2_vl_2b": lambda: _qwen2_vl((1536, 8960, 28, 12, 2, 151936), True),
    "qwen2_vl_7b": lambda: _qwen2_vl((3584, 18944, 28, 28, 4, 152064), False),
    "qwen2_vl_72b": lambda: _qwen2_vl((8192, 29568, 80, 64, 8, 152064), False),
    "qwen2_5_vl_3b": lambda: _qwen2_5_vl((2048, 11008, 36, 16, 2, 151936), 3420, True),
    "qwen2_5_vl_7b": lambda: _qwen2_5_vl((3584, 18944, 28, 28, 4, 152064), 3420, False),
    "qwen2_5_vl_32b": lambda: _qwen2_5_vl((5120, 27648, 64, 40, 8, 152064), 3456, False),
    "qwen2_5_vl_72b": lambda: _qwen2_5_vl((8192, 29568, 80, 64, 8, 152064), 3456, False),
    "qwen3_vl_2b": lambda: _qwen3_vl((2048, 6144, 28, 16, 8, 151936), False, True),
    "qwen3_vl_4b": lambda: _qwen3_vl((2560, 9728, 36, 32, 8, 151936), False, True),
    "qwen3_vl_8b": lambda: _qwen3_vl((4096, 12288, 36, 32, 8, 151936), True, False),
    "qwen3_vl_32b": lambda: _qwen3_vl((5120, 25600, 64, 64, 8, 151936), True, False),
    "qwen3_vl_30b_a3b": lambda: _qwen3_vl(
        (2048, 6144, 48, 32, 4, 151936), True, False, **_experts(768)
    ),
    "qwen3_vl_235b_a22b": lambda: _qwen3_vl(
        (4096, 12288, 94, 64, 4, 151936), True, False, **_experts(1536)
    ),
    "llava_onevision_0_5b": lambda: _llava_onevision((896, 4864, 24, 14, 2, 152000), True),
    "llava_onevision_7b": lambda: _llava_onevision((3584, 18944, 28, 28, 4, 152128), False),
    "llava_onevision_72b": lambda: _llava_onevision((8192, 29568, 80, 64, 8, 152128), False),
    "llava_next_video_7b": lambda: _llava_next_video(
        "llama",
        (4096, 11008, 32, 32, 32, 32064),
        max_position_embeddings=4096,
        rope_parameters=_LINEAR,
    ),
    "llava_next_video_7b_32k": lambda: _llava_next_video(
        "mistral",
        (4096, 14336, 32, 32, 8, 32064),
        max_position_embeddings=32768,
        sliding_window=None,
    ),
    "llava_next_video_34b": lambda: _llava_next_video(
        "llama", (7168, 20480, 60, 56, 8, 64064), max_position_embeddings=4096
    ),
    "video_xl_7b": lambda: _video_xl((3584, 18944, 28, 28, 4, 152064)),
    "llava_video_7b": lambda: _llava_video((3584, 18944, 28, 28, 4, 152064)),
    "llava_video_72b": lambda: _llava_video((8192, 29568, 80, 64, 8, 152064)),
    "longva_7b": lambda: _longva((3584, 18944, 28, 28, 4, 152064)),
    "internvl3_1b": lambda: _internvl("qwen2", (896, 4864, 24, 14, 2, 151674)),
    "internvl3_2b": lambda: _internvl("qwen2", (1536, 8960, 28, 12, 2, 151674)),
    "internvl3_8b": lambda: _internvl("qwen2", (3584, 18944, 28, 28, 4, 151674)),
    "internvl3_14b": lambda: _internvl("qwen2", (5120, 13824, 48, 40, 8, 151674)),
    "internvl3_38b": lambda: _internvl("qwen2", (5120, 27648, 64, 40, 8, 151674), True),
    "internvl3_5_1b": lambda: _internvl("qwen3", (1024, 3072, 28, 16, 8, 151936)),
    "internvl3_5_2b": lambda: _internvl("qwen3", (2048, 6144, 28, 16, 8, 151936)),
    "internvl3_5_4b": lambda: _internvl("qwen3", (2560, 9728, 36, 32, 8, 151936)),
    "internvl3_5_8b": lambda: _internvl("qwen3", (4096, 12288, 36, 32, 8, 151936)),
    "internvl3_5_14b": lambda: _internvl("qwen3", (5120, 17408, 40, 40, 8, 151936)),
    "internvl3_5_38b": lambda: _internvl("qwen3", (5120, 25600, 64, 64, 8, 151936), True),
    "internvl3_5_30b_a3b": lambda: _internvl(
        "qwen3_moe", (2048, 6144, 48, 32, 4, 151936), **_experts(768)
    ),
    "internvl3_5_241b_a28b": lambda: _internvl(
        "qwen3_moe", (4096, 12288, 94, 64, 4, 151936), True, **_experts(1536)
    ),
    "video_llama_3_2b": lambda: _video_llama_3((1536, 8960, 28, 12, 2, 151936), True),
    "video_llama_3_7b": lambda: _video_llama_3((3584, 18944, 28, 28, 4, 152064), False),
    "smolvlm2_256m": lambda: _smolvlm((576, 1536, 30, 9, 3, 49280), 4, _SIGLIP_BASE),
    "smolvlm2_500m": lambda: _smolvlm((960, 2560, 32, 15, 5, 49280), 4, _SIGLIP_BASE),
    "smolvlm2_2_2b": lambda: _smolvlm((2048, 8192, 24, 32, 32, 49280), 3, _SIGLIP_SO),
    "glm4_1v_9b": lambda: _glm4v((4096, 13696, 40, 32, 2, 151552)),
    "glm4_5v": lambda: _glm4v_moe((4096, 10944, 46, 96, 8, 151552)),
}


# Visual tokens of a whole video at most, for families whose processor has one budget for all frames.
BUDGETS = {
    "qwen3_vl": 12288,
    "qwen3_vl_moe": 12288,
    "video_llama_3": 16384,
    "glm4v": 30000,
    "glm4v_moe": 30000,
}
MEMORY = (24, 80)  # GB
UNCOMPRESSED = "when nothing is compressed"


def frame_tokens(config: PreTrainedConfig, size: Mapping[str, int]) -> int:
    """Visual tokens and newlines of a frame, at most; `size` is the video processor's, where its yaml sets one."""
    vision, kind = config.vision_config, config.model_type
    if kind in ("qwen2_vl", "qwen2_5_vl"):
        return size["longest_edge"] // (28 * 28) // 2  # two frames a step
    side = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    shrunk = config.scale_factor if kind == "smolvlm" else 2
    row = -(-(side // patch) // shrunk)
    newlines = row if kind == "llava_video" and config.newline_position == "grid" else 0
    return row**2 + newlines


def head(name: str, size: Mapping[str, int]) -> str:
    """What a yaml says of memory, from the shapes above in closed form; activations come on top.

    Args:
        name: of the yaml.
        size: of its video processor, where it sets one.
    """
    config = SHAPES[name]()
    weights = weight_bytes(config, torch.bfloat16)
    shape = model_shape(config.get_text_config(), torch.bfloat16.itemsize)
    token = kv_bytes(shape, 1)
    parameters, gigabytes = weights / torch.bfloat16.itemsize / 1e9, weights / 1e9
    sizes = f"{parameters:.1f} B parameters, {gigabytes:.1f} GB in bfloat16; KVs {_grouped(token)} bytes a token"
    if budget := BUDGETS.get(config.model_type):
        fits = [f"{gb} GB" for gb in MEMORY if weights + budget * token <= gb * 1e9]
        video = f"A whole video: {_grouped(budget)} visual tokens at most, {budget * token / 1e9:.1f} GB"
        room = f"fits {' and '.join(fits)}" if fits else f"does not fit {MEMORY[-1]} GB"
        return f"{sizes}\n# {video} {UNCOMPRESSED}; with the weights it {room}"
    tokens = frame_tokens(config, size)
    counts = [max(0, int((gb * 1e9 - weights) // (token * tokens))) for gb in MEMORY]
    room = ", ".join(
        f"{_grouped(count) if count else 'none'} in {gb} GB"
        for count, gb in zip(counts, MEMORY, strict=True)
    )
    return (
        f"{sizes}\n# Frames of {tokens} visual tokens, {UNCOMPRESSED}, beside the weights: {room}"
    )


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def headed(path: Path) -> str:
    """A yaml of conf/model with its two lines about memory as they should be; its licence stays."""
    text = path.read_text(encoding="utf-8")
    processor = OmegaConf.create(text).video_processor or {}
    lines = text.splitlines(keepends=True)
    rest = lines[2 if UNCOMPRESSED in lines[1] else 1 :]
    licence = lines[0].split(";")[0]
    return f"{licence}; {head(path.stem, processor.get('size', {}))}\n{''.join(rest)}"


def main() -> int:
    """Writes the heads."""
    for name in SHAPES:
        path = CONF / "model" / f"{name}.yaml"
        path.write_text(headed(path), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
