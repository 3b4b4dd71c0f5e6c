"""Properties that every compressor must have, and what each is about."""

from dataclasses import dataclass
from itertools import product
from math import ceil

import pytest
import torch

from tests.tiny import ours
from x2l.compressors.base import Level, Observation, kept_tokens
from x2l.compressors.merging import ToMe, matching
from x2l.compressors.pooling import MeanPool, z_order
from x2l.compressors.pruning_base import ScoredPruning
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.pruning_controls import RandomPruning, UniformPruning
from x2l.kv import LayerKV

EVERY = [
    KeyNorm(),
    RandomPruning(),
    UniformPruning(),
    ToMe(),
    ToMe(proportional=False),
    MeanPool(),
    MeanPool(True),
]
PRUNING = [KeyNorm(), RandomPruning(), UniformPruning()]
GRIDS = [(4, 4, 4), (1, 3, 5), (3, 2, 7), (4, 12, 12), (1, 1, 2)]


def layer(grid, heads=2, seed=0, dtype=torch.float32):
    tokens = grid[0] * grid[1] * grid[2]
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(1, heads, tokens, 8, generator=generator).to(dtype)
    values = torch.randn(1, heads, tokens, 8, generator=generator).to(dtype)
    axes = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    positions = torch.stack(axes).reshape(3, 1, -1).float()
    return LayerKV(keys, values, positions, torch.ones(1, tokens))


def obs(grid, **changes):
    at = layer(grid).positions[:, 0].long()
    fields = {"layer": 0, "chunk": 0, "grid": grid, "video_seed": 0, "positions": at}
    return Observation(**(fields | {"rope": ours("qwen2_5_vl"), "scaling": 8**-0.5} | changes))


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
def test_keeps_exactly_the_count_in_time_order(compressor):
    for grid, ratio in product(GRIDS, (1.5, 2, 3, 7, 32, 1000)):
        kv = layer(grid)
        keep = kept_tokens(kv.tokens, ratio)
        if keep == kv.tokens:
            continue
        out = compressor.compress(kv, obs(grid), keep)
        assert out.tokens == keep == ceil(kv.tokens / ratio)
        assert out.keys.shape == out.values.shape == (1, 2, keep, 8)
        assert not out.keys.isnan().any()
        assert torch.equal(kv.keys, layer(grid).keys)  # the input is untouched
        if isinstance(compressor, ScoredPruning | UniformPruning):
            order = out.positions[0] * 10000 + out.positions[1] * 100 + out.positions[2]
            assert (order.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("compressor", PRUNING, ids=repr)
def test_pruning_returns_some_of_its_inputs_unchanged(compressor):
    kv = layer((4, 4, 4))
    out = compressor.compress(kv, obs((4, 4, 4)), 10)
    for head in range(2):
        rows = {
            tuple(k.tolist() + v.tolist())
            for k, v in zip(kv.keys[0, head], kv.values[0, head], strict=True)
        }
        got = [
            tuple(k.tolist() + v.tolist())
            for k, v in zip(out.keys[0, head], out.values[0, head], strict=True)
        ]
        assert len(set(got)) == 10 and set(got) <= rows
    assert (out.weights == 1).all()


def test_key_norm_keeps_the_smallest_keys():
    kv = layer((4, 4, 4))
    out = KeyNorm().compress(kv, obs((4, 4, 4)), 8)
    norms = kv.keys[0].norm(dim=-1)
    assert torch.allclose(out.keys[0].norm(dim=-1).sort().values, norms.sort().values[:, :8])


def test_random_differs_by_video_chunk_layer_and_head_and_repeats():
    kv, grid = layer((4, 4, 4)), (4, 4, 4)
    first = RandomPruning().compress(kv, obs(grid), 8)
    assert torch.equal(first.keys, RandomPruning().compress(kv, obs(grid), 8).keys)
    for change in ({"video_seed": 1}, {"chunk": 1}, {"layer": 1}):
        assert not torch.equal(
            first.positions, RandomPruning().compress(kv, obs(grid, **change), 8).positions
        )
    assert not torch.equal(first.positions[:, 0], first.positions[:, 1])


def test_tome_merges_twins_first():
    """Two pairs of equal keys among orthogonal ones are what one round merges."""
    keys = torch.eye(8)[None].clone()  # (1 head, 8 tokens, 8)
    keys[0, 5], keys[0, 3] = keys[0, 2], keys[0, 6]
    group = matching(keys, 2)
    assert group[5] == group[2] and group[3] == group[6]
    assert len(set(group.tolist())) == 6


def test_tome_weighs_merged_tokens_by_their_number():
    kv = layer((1, 2, 2))
    same = LayerKV(kv.keys[:, :, :1].expand(-1, -1, 4, -1), kv.values, kv.positions, kv.weights)
    out = ToMe().compress(same, obs((1, 2, 2)), 1)
    assert out.weights.tolist() == [[4.0]]
    assert ToMe(proportional=False).compress(same, obs((1, 2, 2)), 1).weights.tolist() == [[1.0]]


def test_mean_pool_pools_squares():
    """Ratio 4 on an even grid is the mean of every 2x2 patch, ratio 2 of every horizontal pair."""
    kv = layer((2, 4, 4))
    out = MeanPool().compress(kv, obs((2, 4, 4)), 8)
    patches = kv.keys.view(1, 2, 2, 2, 2, 2, 2, 8).mean(dim=(4, 6)).view(1, 2, 8, 8)
    assert torch.allclose(out.keys, patches, atol=1e-6)
    pairs = kv.values.view(1, 2, 2, 4, 2, 2, 8).mean(dim=5)
    got = MeanPool().compress(kv, obs((2, 4, 4)), 16).values
    assert torch.allclose(got.flatten(2).sort().values, pairs.flatten(2).sort().values, atol=1e-6)


def test_z_order_finishes_each_time_step():
    for grid in GRIDS:
        steps = (z_order(grid) // (grid[1] * grid[2])).tolist()
        assert steps == sorted(steps)


def test_averages_are_summed_in_fp32():
    """64 equal bf16 keys must average to themselves."""
    kv = layer((4, 4, 4), dtype=torch.bfloat16)
    kv = LayerKV(torch.full_like(kv.keys, 1.0078125), kv.values, kv.positions, kv.weights)
    for compressor in (ToMe(), MeanPool()):
        out = compressor.compress(kv, obs((4, 4, 4)), 1)
        assert out.keys.dtype == torch.bfloat16 and (out.keys == 1.0078125).all()


def test_kept_tokens_is_exact():
    assert [kept_tokens(1440, r) for r in (2, 3, 5, 32)] == [720, 480, 288, 45]
    assert kept_tokens(1000, 10 / 9) == 900  # in floats 1000 * 0.9 is easily 899
    assert kept_tokens(11, 1.1) == 10
    assert kept_tokens(7, 100) == 1


def test_level_refuses_a_share_for_a_ratio():
    for ratio in (0.5, 0, -2, float("nan")):
        with pytest.raises(ValueError, match=r"ratio=.*>= 1; to keep a share"):
            Level(KeyNorm(), ratio)


def test_pruning_refuses_a_broken_score():
    @dataclass(frozen=True)
    class Broken(ScoredPruning):
        bad: str
        name: str = "broken"

        def score(self, kv, obs):
            good = kv.keys[0].norm(dim=-1)
            return (
                good[:1]
                if self.bad == "shape"
                else good.masked_fill(good == good.max(), float("nan"))
            )

        def flops(self, sizes):
            return 0

    for bad in ("shape", "nan"):
        with pytest.raises(ValueError, match="broken: score gave"):
            Broken(bad).compress(layer((1, 2, 2)), obs((1, 2, 2)), 2)
