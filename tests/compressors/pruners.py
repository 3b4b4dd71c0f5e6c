"""Every pruning method, and chunks for them that no model made."""

import torch

from tests.tiny import ours
from x2l.compressors.base import Observation
from x2l.compressors.pruning_by_attention import (
    TOVA,
    AttentionReceived,
    Compactor,
    ExpectedAttention,
    SnapKV,
    TaskAware,
)
from x2l.compressors.pruning_by_keys import (
    CUR,
    KeyDiff,
    KeyNorm,
    LagKV,
    Streaming,
    TemporalRedundancy,
    ValueNorm,
)
from x2l.compressors.pruning_controls import RandomPruning, UniformPruning
from x2l.kv import LayerKV

BLIND = [Streaming(), RandomPruning(), UniformPruning()]  # do not look at the KVs
CONTENT = [KeyNorm(), ValueNorm(), KeyDiff(), CUR(), LagKV(), TemporalRedundancy()]
ATTENTION = [
    SnapKV(),
    TOVA(),
    AttentionReceived(),
    AttentionReceived(average=True),
    ExpectedAttention(future=48),
    Compactor(),
    TaskAware(),
]
METHODS = [*BLIND, *CONTENT, *ATTENTION]
HEADS, GROUPS, WIDTH, PROBE = 2, 3, 8, 5  # KV heads, query heads a KV head, channels, probe tokens


def chunk(grid, seed=0, shift=(0, 0, 0), dtype=torch.float32, far=0):
    """A chunk's KVs and what a method may see of it; the same content whatever the shift of its positions.

    Args:
        grid: time steps, rows, columns.
        seed: of the content.
        shift: added to the positions, axis by axis.
        dtype: of keys, values and queries.
        far: how much later on every axis than the last visual token the probe stands.
    """
    rope, tokens = ours("qwen2_5_vl"), grid[0] * grid[1] * grid[2]
    draw = torch.Generator().manual_seed(seed)

    def vectors(heads, count):
        return torch.randn(1, heads, count, WIDTH, generator=draw).to(dtype)

    axes = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    at = torch.stack(axes).reshape(3, -1) + torch.tensor(shift)[:, None]
    behind = torch.tensor(shift)[:, None] + max(grid) + far + torch.arange(PROBE)
    keys, values = vectors(HEADS, tokens), vectors(HEADS, tokens)
    queries = rope.apply_rope(vectors(HEADS * GROUPS, tokens), at)
    probe = rope.apply_rope(vectors(HEADS * GROUPS, PROBE), behind)
    kv = LayerKV(keys, values, at[:, None].float(), torch.ones(1, tokens))
    obs = Observation(0, 0, grid, 0, at, rope, WIDTH**-0.5, queries, probe)
    return kv, obs


def places(kv, kept):
    """Index of each kept KV in the chunk, `(H, keep)`, found by its value."""
    same = (kept.values[0, :, :, None] == kv.values[0, :, None]).all(dim=-1)
    assert (same.sum(dim=-1) == 1).all()
    return same.int().argmax(dim=-1)
