"""VideoLLaMA3: its processor drops visual tokens whose pixels hardly differ from the frame before."""

from __future__ import annotations

from typing import Any

from x2l.models.families import Family


def _trim(inputs: dict[str, Any], frames: int) -> dict[str, Any]:
    """Processor outputs without the first `frames` frames, which were there for the comparison only."""
    grid = inputs["video_grid_thw"].clone()
    patches = frames * int(grid[0, 1] * grid[0, 2])
    tokens = patches // int(inputs["video_merge_sizes"][0]) ** 2
    grid[0, 0] -= frames
    return {
        **inputs,
        "video_grid_thw": grid,
        "pixel_values_videos": inputs["pixel_values_videos"][patches:],
        "video_compression_mask": inputs["video_compression_mask"][tokens:],
    }


FAMILY = Family(lookback=1, trim=_trim, dropped="video_compression_mask")
