"""Qwen2-VL and Qwen2.5-VL: what differs from other families.

One block of visual tokens stands for the whole video, without text inside; two frames make one time step; M-RoPE.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from x2l.models.base import VisionShape

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")


def merged_grid(visual: dict[str, Any], config: Any) -> tuple[int, int, int]:
    """(time steps, rows, columns) of visual tokens of the whole video."""
    steps, rows, columns = (int(n) for n in visual["video_grid_thw"][0])
    merge = int(config.vision_config.spatial_merge_size)
    return steps, rows // merge, columns // merge


def time_interval(visual: dict[str, Any], config: Any) -> float:
    """Temporal positions between time steps.

    Not cut to whole seconds first: transformers 4.5x did so by accident (fixed in pull request 48669), Qwen's own
    code never did.
    """
    if config.model_type == "qwen2_vl":
        return 1.0
    return float(config.vision_config.tokens_per_second) * float(visual["second_per_grid_ts"][0])


def chunk_inputs(visual: dict[str, Any], first: int, last: int) -> dict[str, Tensor]:
    """Processor outputs for time steps [first, last) of the video."""
    grid = visual["video_grid_thw"].clone()
    area = int(grid[0, 1] * grid[0, 2])
    grid[0, 0] = last - first
    return {
        "pixel_values_videos": visual["pixel_values_videos"][first * area : last * area],
        "video_grid_thw": grid,
    }


def vision_shape(config: Any) -> VisionShape:
    """Sizes of the vision tower, for compute.py."""
    vision = config.vision_config
    patch_inputs = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    if config.model_type == "qwen2_vl":
        return VisionShape(
            depth=vision.depth,
            hidden=vision.embed_dim,
            intermediate=int(vision.embed_dim * vision.mlp_ratio),
            mlp_matrices=2,
            patch_inputs=patch_inputs,
            merge=vision.spatial_merge_size,
            out=vision.hidden_size,
            window=None,
            full_attention=tuple(range(vision.depth)),
        )
    return VisionShape(
        depth=vision.depth,
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        mlp_matrices=3,
        patch_inputs=patch_inputs,
        merge=vision.spatial_merge_size,
        out=vision.out_hidden_size,
        window=vision.window_size // vision.spatial_merge_size // vision.patch_size,
        full_attention=tuple(vision.fullatt_block_indexes),
    )
