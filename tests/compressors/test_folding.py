"""Properties of every merging, pooling and composed method, on chunks made here."""

from dataclasses import replace
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compressors.folders import (
    COMPOSED,
    GROUPINGS,
    HEADS,
    METHODS,
    RAGGED,
    TOGETHER,
    WIDTH,
    chunk,
    folds_all,
    obs,
    real,
)
from tests.tiny import frames, ours
from x2l.compressors.base import Level, Sizes
from x2l.compressors.clustering import DensityPeaks, KMeans, filled
from x2l.compressors.composed import PruneThenMerge
from x2l.compressors.grid_pooling import GridPool
from x2l.compressors.grouping import KeyGrouping, averaged
from x2l.compressors.merging import StaticMerging, ToMe
from x2l.compressors.pooling import MeanPool
from x2l.engine.decode import ask
from x2l.engine.prefill import prefill
from x2l.kv import KV, concat_layers
from x2l.models.flop_counter import flop_counter

each = pytest.mark.parametrize("method", METHODS, ids=repr)
GRID = (4, 3, 4)
grids = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)).filter(
    lambda grid: grid[0] * grid[1] * grid[2] > 1
)


@given(
    method=st.sampled_from(METHODS), grid=grids, part=st.floats(0, 1), seed=st.integers(0, 10**6)
)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_any_count_from_any_grid(method, grid, part, seed):
    """Exactly that many, in time order, within what went in; the same again; the input untouched."""
    kv, look = chunk(grid, seed), obs(grid)
    keep = 1 + int(part * (kv.tokens - 2))
    out, again = method.compress(kv, look, keep), method.compress(kv, look, keep)
    there = real(out)
    assert int(there.sum()) == keep * HEADS and (out.tokens == keep or method in RAGGED)
    assert torch.equal(out.keys, again.keys) and torch.equal(out.positions, again.positions)
    assert torch.equal(kv.keys, chunk(grid, seed).keys) and (kv.weights == 1).all()
    times = out.positions[0].expand(HEADS, -1)
    assert (times.diff(dim=-1) >= 0).all()
    for got, given_ in ((out.keys, kv.keys), (out.values, kv.values)):
        assert got.isfinite().all()
        least, most = given_.amin(2, keepdim=True) - 1e-5, given_.amax(2, keepdim=True) + 1e-5
        assert ((got >= least) & (got <= most)).all()  # means lie between their members
    assert (out.positions >= kv.positions.amin(2, keepdim=True) - 1e-4).all()
    assert (out.positions <= kv.positions.amax(2, keepdim=True) + 1e-4).all()
    if folds_all(method):
        sums = out.weights.double().sum(dim=-1)
        assert torch.allclose(sums, torch.full_like(sums, kv.tokens))


@pytest.mark.parametrize("method", GROUPINGS, ids=repr)
def test_the_mean_of_all_stays(method):
    """Each group is the mean of its members, so the groups' means, weighed by their size, are the mean of all."""
    for keep in (1, 5, 40):
        kv = chunk(GRID)
        out = method.compress(kv, obs(GRID), keep)
        weights = out.weights.expand(HEADS, -1)
        for got, given_ in ((out.keys, kv.keys), (out.values, kv.values)):
            mean = (got * weights[None, :, :, None]).sum(2) / kv.tokens
            assert torch.allclose(mean, given_.mean(2), atol=1e-5)
        moments = (out.positions * weights).sum(-1) / kv.tokens
        assert torch.allclose(moments, kv.positions.mean(-1).expand_as(moments), atol=1e-4)


@each
def test_the_dtype_stays_and_sums_do_not_round_in_it(method):
    """Equal numbers average to themselves, also 48 of them in 8 bits of mantissa."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        kv = chunk(GRID, dtype=dtype)
        out = method.compress(kv, obs(GRID), 7)
        assert out.keys.dtype == out.values.dtype == dtype
        number = 1.0078125
        same = replace(kv, keys=torch.full_like(kv.keys, number), values=kv.values * 0 + number)
        out = method.compress(same, obs(GRID), 7)
        assert (out.values - number).abs().max() <= (1e-6 if dtype == torch.float64 else 0)


@each
def test_heads_are_apart(method):
    """What one head holds changes nothing in another, unless the method is about all heads."""
    kv = chunk(GRID)
    keys, values = kv.keys.clone(), kv.values.clone()
    other = chunk(GRID, seed=1)
    keys[:, 1], values[:, 1] = other.keys[:, 1], other.values[:, 1]
    changed = replace(kv, keys=keys, values=values)
    one, two = (method.compress(x, obs(GRID), 10) for x in (kv, changed))
    same = one.tokens == two.tokens and torch.equal(one.keys[:, 0], two.keys[:, 0])
    together = isinstance(method, TOGETHER) and "Random" not in repr(method)
    assert same is not together
    assert not (one.tokens == two.tokens and torch.equal(one.keys[:, 1], two.keys[:, 1]))


@each
def test_swapping_heads_swaps_the_result(method):
    kv, swap = chunk(GRID), torch.tensor([1, 0])
    if "Random" in repr(method):
        pytest.skip("draws for each head anew")
    swapped = replace(kv, keys=kv.keys[:, swap], values=kv.values[:, swap])
    one, two = (method.compress(x, obs(GRID), 10) for x in (kv, swapped))
    assert torch.allclose(one.keys[:, swap], two.keys, atol=1e-6)


@pytest.mark.parametrize("method", GROUPINGS + COMPOSED, ids=repr)
def test_moving_the_chunk_moves_the_result(method):
    """Positions play no part in the choice: keys are taken before RoPE."""
    kv = chunk(GRID)
    later = replace(kv, positions=kv.positions + 1000)
    one, two = (method.compress(x, obs(GRID), 10) for x in (kv, later))
    assert torch.allclose(one.keys, two.keys, atol=1e-6)
    assert torch.allclose(one.positions + 1000, two.positions, atol=1e-3)


def logits(model, store, layers):
    mixed = store.mix(["all"])
    kv = KV(tuple(concat_layers([a, b]) for a, b in zip(store.prefix.layers, layers, strict=True)))
    return ask(model, model.load_cache(kv), model.question("What colour is it?"), mixed.place)


def light(method):
    """The same method without the log-size bias."""
    if isinstance(method, PruneThenMerge):
        return replace(method, merger=light(method.merger))
    return replace(method, proportional=False)


@pytest.mark.parametrize(
    "method", [*GROUPINGS, COMPOSED[0], COMPOSED[1], COMPOSED[3], COMPOSED[4]], ids=repr
)
def test_a_kv_of_n_equal_tokens_with_the_bias_is_n_copies(method):
    """A chunk of one token again and again, compressed to 3 KVs, answers as all of them do; without the bias not.

    Prune-then-merge throws nothing away either: what it does not merge, it keeps.
    """
    model = ours("qwen2_5_vl")
    store = prefill(model, model.prompt(frames(4), 4), {"all": Level(ToMe(), 1)})
    same = [layer.decode() for layer in store.levels["all"][0].layers]
    same = [layer.take(torch.full((layer.tokens,), 5)) for layer in same]
    look = obs(store.prompt.chunks[0].grid)
    want = logits(model, store, same)
    got = logits(model, store, [method.compress(layer, look, 3) for layer in same])
    plain = logits(model, store, [light(method).compress(layer, look, 3) for layer in same])
    assert torch.allclose(got, want, atol=2e-5)
    assert not torch.allclose(plain, want, atol=1e-3)


@pytest.mark.parametrize("method", [ToMe(), KMeans(), DensityPeaks()], ids=repr)
def test_equal_tokens_are_merged_before_different_ones(method):
    """11 tokens, each four times over or more, all over the chunk: no two kinds come together."""
    kinds = torch.randn(1, 11, WIDTH, generator=torch.Generator().manual_seed(3))
    row = torch.arange(48) * 4 % 11
    keep = {ToMe: 24, KMeans: 24, DensityPeaks: 11}[type(method)]
    group = method.by_keys(kinds[:, row], keep)[0]
    for index in range(keep):
        assert len(set(row[group == index].tolist())) == 1


def test_static_places_are_merged_over_time_first():
    """Two places of twelve stand still for four steps: six links, exactly those that are merged."""
    kv = chunk(GRID)
    keys = kv.keys.unflatten(2, (4, 12)).clone()
    keys[:, :, :, [3, 8]] = keys[:, :, :1, [3, 8]]
    still = replace(kv, keys=keys.flatten(2, 3))
    group = StaticMerging().grouped(still, obs(GRID), 48 - 6)[0].view(4, 12)
    assert (group[:, [3, 8]] == group[:1, [3, 8]]).all()
    assert len(set(group[:, [n for n in range(12) if n not in (3, 8)]].flatten().tolist())) == 40
    # Fewer KVs than places: every place is one over all steps, and neighbours in space are merged.
    group = StaticMerging().grouped(still, obs(GRID), 5)[0].view(4, 12)
    assert (group == group[:1]).all() and len(set(group[0].tolist())) == 5


@pytest.mark.parametrize("keep", [12, 13, 30, 47])
def test_a_chain_stays_at_its_place_and_in_one_piece(keep):
    group = StaticMerging().grouped(chunk(GRID), obs(GRID), keep)[0]
    for index in range(keep):
        at = (group == index).nonzero()[:, 0]
        assert len(set((at % 12).tolist())) == 1 and (at.diff() == 12).all()


def test_means_are_taken_in_fp32_at_least():
    """Each mean of bf16 numbers is the exact one, rounded once."""
    kv, group = chunk(GRID, dtype=torch.bfloat16), torch.arange(48)[None] % 7
    got = averaged(kv, group, 7)
    for index in range(7):
        exact = kv.values[:, :, group[0] == index].double().mean(2)
        half = 2.0 ** (exact.abs().log2().floor() - 8)  # of a unit in the last of bf16's 8 bits
        assert ((got.values[:, :, index].double() - exact).abs() <= 1.001 * half).all()


def test_a_group_never_reaches_over_a_change_before_one_without():
    """A cut of the whole picture between steps 1 and 2 is kept where the budget allows it."""
    kv = chunk(GRID)
    steps = kv.keys.unflatten(2, (4, 12)).clone()
    steps[:, :, 1], steps[:, :, 3] = steps[:, :, 0], steps[:, :, 2]
    group = StaticMerging().grouped(replace(kv, keys=steps.flatten(2, 3)), obs(GRID), 24)[0]
    group = group.view(4, 12)
    assert torch.equal(group[0], group[1]) and torch.equal(group[2], group[3])
    assert len(set(group.flatten().tolist())) == 24


def partition(group):
    """Which tokens are together, whatever the groups are called."""
    return {frozenset((group == index).nonzero()[:, 0].tolist()) for index in set(group.tolist())}


@pytest.mark.parametrize("keep", [3, 7, 20])
def test_every_round_of_tome_compares_means_of_the_rounds_before(keep):
    """Against lists and loops (Bolya et al., section 3)."""
    keys = chunk(GRID).keys[0]
    groups = [[token] for token in range(48)]
    while len(groups) > keep:
        remove = min(len(groups) // 2, len(groups) - keep)
        means = torch.stack([keys[:, group].mean(1).flatten() for group in groups])
        best = []
        for odd in range(1, len(groups), 2):
            cosine = torch.nn.functional.cosine_similarity(means[odd], means[::2], dim=-1)
            best.append((float(cosine.max()), odd, 2 * int(cosine.argmax())))
        merged = sorted(best, reverse=True)[:remove]
        for _, odd, even in merged:
            groups[even] = groups[even] + groups[odd]
        groups = [g for n, g in enumerate(groups) if n not in {odd for _, odd, _ in merged}]
    assert partition(ToMe().by_keys(keys, keep)[0]) == {frozenset(group) for group in groups}


@pytest.mark.parametrize("keep", [3, 7, 20])
def test_density_peaks_against_loops(keep):
    """Chat-UniVi, eq. 1 to 3, with distances in units of the head's mean."""
    points = chunk(GRID).keys[0, 0]
    squares = (points[:, None] - points[None]).square().sum(-1)
    density = [float((-row.sort().values[:5].mean() / squares.mean()).exp()) for row in squares]
    score = []
    for one in range(48):
        above = [float(squares[one, j]) for j in range(48) if density[j] > density[one]]
        score.append((min(above, default=float(squares.max())) ** 0.5 * density[one], -one))
    centres = [-n for _, n in sorted(score, reverse=True)[:keep]]
    nearest = [min(centres, key=lambda c: float(squares[n, c])) for n in range(48)]
    want = partition(torch.tensor(nearest))
    assert partition(DensityPeaks().by_keys(points[None], keep)[0]) == want


def test_an_empty_group_takes_none_that_would_leave_another_empty():
    """Both tokens of group 0 are the farthest of all, but one of them stays."""
    group = torch.tensor([[0, 0, 1, 1, 1, 1]])
    distance = torch.tensor([[9.0, 8.0, 1.0, 2.0, 4.0, 3.0]])
    assert filled(group, distance, 4).tolist() == [[2, 0, 1, 1, 3, 1]]
    assert torch.equal(filled(group, distance, 2), group)


def squared(points, group, keep):
    """Sum of squared distances to the groups' means, by head."""
    total = torch.zeros(len(points))
    for head, row in enumerate(group):
        for index in range(keep):
            mine = points[head, row == index]
            total[head] += (mine - mine.mean(0)).square().sum()
    return total


def test_more_iterations_of_kmeans_fit_better():
    keys = chunk((4, 6, 6)).keys[0]
    loss = [squared(keys, KMeans(n).by_keys(keys, 9), 9) for n in (1, 2, 5, 20)]
    assert all((b <= a + 1e-4).all() for a, b in zip(loss, loss[1:], strict=False))
    assert (loss[0] > 1.05 * loss[-1]).all()
    pooled = MeanPool().grouped(chunk((4, 6, 6)), obs((4, 6, 6)), 9).expand(HEADS, -1)
    assert (squared(keys, pooled, 9) > loss[-1]).all()


def test_kmeans_leaves_no_cluster_empty_where_most_tokens_are_equal():
    keys = torch.zeros(2, 30, WIDTH)
    keys[:, 29] = 1.0
    group = KMeans().by_keys(keys, 10)
    for head in group:
        assert sorted(set(head.tolist())) == list(range(10))
        assert (head == head[29]).sum() == 1  # the one that differs has a cluster of its own


def test_density_peaks_finds_the_middle_of_each_cloud():
    """Four clouds of eight points around far corners: each is one cluster."""
    corners = 20 * torch.eye(WIDTH)[:4]
    cloud = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))
    points = (corners[:, None] + cloud).flatten(0, 1)[None]
    group = DensityPeaks().by_keys(points, 4)[0].view(4, 8)
    assert all(len(set(row.tolist())) == 1 for row in group)
    assert len({int(row[0]) for row in group}) == 4
    # Scaling all keys scales all distances, which changes nothing.
    assert torch.equal(DensityPeaks().by_keys(points * 1024, 4)[0].view(4, 8), group)


# Operations for each number in the keys that are no matrix products, which is all that the counter sees.
UNSEEN = {
    ToMe: lambda method, rounds: 4 + 2 * (rounds - 1),
    StaticMerging: lambda method, rounds: 6,
    KMeans: lambda method, rounds: 4 + 2 * (method.iterations - 1),
    DensityPeaks: lambda method, rounds: 4,
    MeanPool: lambda method, rounds: 4,
    GridPool: lambda method, rounds: 4,
}


@pytest.mark.parametrize("method", GROUPINGS, ids=repr)
def test_flops_of_groupings_match_the_counter(method):
    for keep in (1, 5, 12, 40):
        kv = chunk(GRID)
        with flop_counter() as counted:
            method.compress(kv, obs(GRID), keep)
        sizes, rounds = Sizes(HEADS, 4, kv.tokens, keep, WIDTH), 0
        left = kv.tokens
        while left > keep:
            left, rounds = max(keep, left - left // 2), rounds + 1
        unseen = UNSEEN[type(method)](method, rounds) * sizes.entries
        assert method.flops(sizes) - unseen == counted.get_total_flops()
        assert isinstance(method, KeyGrouping) is (counted.get_total_flops() > 0)


@pytest.mark.parametrize("method", COMPOSED, ids=repr)
def test_flops_of_composed_methods_match_the_counter(method):
    for keep in (2, 12, 40):
        kv = chunk(GRID)
        with flop_counter() as counted:
            method.compress(kv, obs(GRID), keep)
        sizes = Sizes(HEADS, 4, kv.tokens, keep, WIDTH)
        if isinstance(method, PruneThenMerge):
            kept = min(ceil(method.share * keep), keep - 1)
            unseen = method.pruner.flops(replace(sizes, keep=kept)) if kept else 0
            alone = replace(sizes, heads=1, tokens=kv.tokens - kept, keep=keep - kept)
            left, rounds = alone.tokens, 0
            while left > alone.keep:
                left, rounds = max(alone.keep, left - left // 2), rounds + 1
            each_head = UNSEEN[type(method.merger)](method.merger, rounds) * alone.entries
            unseen += HEADS * each_head
        else:
            unseen = method.pruner.flops(sizes) + 4 * sizes.entries
        assert method.flops(sizes) - unseen == counted.get_total_flops() > 0
