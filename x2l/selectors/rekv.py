"""ReKV's retrieval inside the model: the mean key of every block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from x2l.engine.kv_store import LevelKeys
from x2l.models.interface import VideoModel
from x2l.selectors.head_keys import Combine, Pool, rotated_keys
from x2l.selectors.keyed import KeyedSelector


@dataclass(frozen=True)
class ReKVSelector(KeyedSelector):
    """Product of the question's mean query and a chunk's mean key before RoPE, mean over heads and layers. Final.

    ReKV (arXiv 2503.00540, `kv_cache_manager.py::_calc_block_topk`), whose blocks are frames and whose layers each take
    their own; here a block is a chunk, since compressed KVs belong to no frame, and layers agree on chunks. Its
    products are dot products, as in the code, though the paper calls them cosines. `combine=z_max` puts every head and
    token on a scale of its own, which finds far more on x2l_tiny.
    """

    rope: bool = False
    index: str = "resident"
    name: str = "rekv"

    @override
    def vectors_of(self, keys: LevelKeys, model: VideoModel) -> tuple[Tensor, tuple[int, ...]]:
        parts = rotated_keys(keys, model, self.rope).split(list(keys.counts))
        return torch.stack([part.mean(dim=0) for part in parts]), (1,) * len(parts)

    @property
    @override
    def rule(self) -> tuple[Pool, Combine]:
        return "max", self.combine or "mean"  # a mean of products is the product of the means
