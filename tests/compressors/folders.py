"""Every method that folds KVs into others or spreads budgets, and chunks to try them on."""

import torch

from tests.tiny import ours
from x2l.compressors.base import Observation
from x2l.compressors.clustering import DensityPeaks, KMeans
from x2l.compressors.composed import D2O, MergeIntoKept, PruneThenMerge
from x2l.compressors.grid_pooling import FirstAndChanges, GridPool
from x2l.compressors.grouping import Grouping
from x2l.compressors.head_budgets import AdaKV
from x2l.compressors.merging import StaticMerging, ToMe
from x2l.compressors.pooling import ORDERS, MaxNormPool, MeanPool
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.pruning_controls import RandomPruning, UniformPruning
from x2l.kv import LayerKV

# A grouping folds every token into a mean; `proportional` as given here, the other way round in the tests about it.
GROUPINGS = [
    ToMe(),
    StaticMerging(),
    KMeans(),
    KMeans(iterations=1),
    DensityPeaks(),
    *(MeanPool(proportional=True, over=over) for over in ORDERS),
    GridPool(proportional=True),
    GridPool(proportional=True, steps=2),
]
COMPOSED = [
    MergeIntoKept(KeyNorm()),
    MergeIntoKept(UniformPruning(), fold="values"),
    D2O(KeyNorm()),
    PruneThenMerge(KeyNorm(), ToMe()),
    PruneThenMerge(RandomPruning(), KMeans(iterations=2), share=0.3),
    PruneThenMerge(UniformPruning(), DensityPeaks()),
]
PICKING = [MaxNormPool(), MaxNormPool(of="keys", over="time"), FirstAndChanges()]
RAGGED = [AdaKV(KeyNorm()), AdaKV(RandomPruning(), floor=0.0)]
METHODS = [*GROUPINGS, *COMPOSED, *PICKING, *RAGGED]
# All heads decide together, or share their budget; everything else goes head by head.
TOGETHER = (ToMe, StaticMerging, AdaKV)

HEADS, WIDTH = 2, 8


def folds_all(method):
    """Whether no token is left out of the KVs that are kept."""
    return isinstance(method, Grouping | MergeIntoKept)


def chunk(grid, seed=0, dtype=torch.float32, heads=HEADS):
    """A chunk's KVs, all different, at M-RoPE positions that begin at 7."""
    generator = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1] * grid[2]
    keys, values = torch.randn(2, 1, heads, tokens, WIDTH, generator=generator).to(dtype)
    axes = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    at = torch.stack(axes).reshape(3, 1, -1).float() + 7
    return LayerKV(keys, values, at, torch.ones(1, tokens))


def obs(grid, **changes):
    """What a method is shown of it."""
    at = chunk(grid).positions[:, 0].long()
    fields = {"layer": 0, "chunk": 0, "grid": grid, "video_seed": 0, "positions": at}
    return Observation(**(fields | {"rope": ours("qwen2_5_vl"), "scaling": WIDTH**-0.5} | changes))


def real(kv):
    """`(H, T)`: which KVs are more than padding."""
    return (kv.weights > 0).expand(kv.keys.shape[1], -1)
