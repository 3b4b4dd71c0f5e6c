"""Importance of each KV of a chunk, for pruning. Pure functions; higher = keep.

Every scorer: `(LayerKV, Observation) -> (H, T)` float.
"""

from __future__ import annotations

import torch
from torch import Tensor

from x2l.compressors.base import Observation
from x2l.kv import LayerKV


def key_norm(kv: LayerKV, seen: Observation) -> Tensor:
    """Minus the L2 norm of each key: keys of small norm draw attention (Devoto et al., arXiv 2406.11430, eq. 3).

    RoPE does not change the norm, so un-rotated keys give the published score.
    """
    return -kv.keys[0].float().norm(dim=-1)


def random(kv: LayerKV, seen: Observation) -> Tensor:
    """Independent uniform draws for every head and layer: the floor that any method must beat.

    Seeded by video, chunk and layer: the same run gives the same KVs, in any order of videos.
    """
    seed = (
        hash((seen.video_seed, seen.chunk, seen.layer)) & 0x7FFFFFFFFFFFFFFF
    )  # hash() of ints is not randomised
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(kv.keys.shape[1], kv.tokens, generator=generator).to(kv.keys.device)
