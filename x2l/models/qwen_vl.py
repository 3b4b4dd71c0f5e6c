"""Qwen2-VL and Qwen2.5-VL: one block of visual tokens without text inside, placed by M-RoPE in time, rows, columns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from x2l.models.families import Family
from x2l.models.positions import Placement, after_video, mrope_video


def _positions(
    config: Any, grid: tuple[int, int, int], base: int, sampled_fps: float, rule: str
) -> tuple[Tensor, Placement]:
    """Positions of the video at `base`, of which `sampled_fps` frames a second were taken.

    Seconds a step are not cut to whole ones first: transformers 4.5x did so by accident (fixed in pull request
    48669), Qwen's own code never did.
    """
    interval = 1.0
    if config.model_type == "qwen2_5_vl":
        vision = config.vision_config
        interval = vision.tokens_per_second * (vision.temporal_patch_size / sampled_fps)
    video = mrope_video(base, grid, interval)
    return video, after_video(base, grid, int(video[0, -1]), rule)


FAMILY = Family(positions=_positions)
