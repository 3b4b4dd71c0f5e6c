"""Properties of every pruning method, and each formula against a plain one, on chunks made here."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.compressors.pruners import (
    ATTENTION,
    BLIND,
    CONTENT,
    GROUPS,
    HEADS,
    METHODS,
    PROBE,
    WIDTH,
    chunk,
    places,
)
from x2l.compressors import pruning_by_attention
from x2l.compressors.base import Sizes, kept_tokens
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
    LagKV,
    Streaming,
    TemporalRedundancy,
    ValueNorm,
)
from x2l.compressors.pruning_controls import RandomPruning
from x2l.kv import LayerKV
from x2l.models.flop_counter import flop_counter

GRID = (4, 3, 4)
each = pytest.mark.parametrize("method", METHODS, ids=repr)


def rotated(kv, obs):
    return obs.rope.apply_rope(kv.keys, obs.positions)[0].double()


def by_head(queries):
    return queries[0].double().unflatten(0, (HEADS, GROUPS))


# --- properties -----------------------------------------------------------------------------------------------------


@each
@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6)),
    ratio=st.one_of(st.integers(1, 64), st.integers(10, 640).map(lambda tenths: tenths / 10)),
)
def test_exact_count_and_time_order_at_any_ratio(method, grid, ratio):
    kv, obs = chunk(grid)
    keep = kept_tokens(kv.tokens, ratio)
    assume(keep < kv.tokens)
    method.check(kv.tokens, keep)
    out = method.compress(kv, obs, keep)
    assert out.keys.shape == out.values.shape == (1, HEADS, keep, WIDTH)
    at = places(kv, out)
    assert (at.diff(dim=-1) > 0).all()  # some of its inputs, each once, in time order
    assert torch.equal(out.keys[0], kv.keys[0].gather(1, at[:, :, None].expand(-1, -1, WIDTH)))
    assert (out.weights == 1).all() and torch.equal(kv.keys, chunk(grid)[0].keys)


@each
def test_defaults_run_on_the_smallest_chunks_at_every_count(method):
    for grid in ((1, 1, 2), (1, 1, 3), (2, 1, 1), (3, 1, 2), (1, 3, 3)):
        kv, obs = chunk(grid)
        for keep in range(1, kv.tokens):
            method.check(kv.tokens, keep)
            assert method.compress(kv, obs, keep).tokens == keep


@each
def test_dtypes(method):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        kv, obs = chunk(GRID, dtype=dtype)
        out = method.compress(kv, obs, 9)
        assert out.keys.dtype == out.values.dtype == dtype
        assert not out.keys.requires_grad
        if method in [*CONTENT, *ATTENTION]:  # in half precision many would tie
            precise = torch.promote_types(dtype, torch.float32)
            assert method.importance(kv, obs, 9).dtype == precise


@each
def test_equal_keys_and_values_are_no_trouble(method):
    """Nothing moves, nothing differs: no division by zero, no NaN."""
    kv, obs = chunk(GRID)
    flat = LayerKV(kv.keys * 0 + 1, kv.values * 0 + 1, kv.positions, kv.weights)
    assert method.compress(flat, obs, 9).tokens == 9
    zero = LayerKV(kv.keys * 0, kv.values * 0, kv.positions, kv.weights)
    assert method.compress(zero, obs, 9).tokens == 9


@pytest.mark.parametrize(
    "method", [m for m in METHODS if not isinstance(m, RandomPruning)], ids=repr
)
def test_permuted_heads_give_permuted_results(method):
    kv, obs = chunk(GRID)
    swapped = LayerKV(kv.keys.flip(1), kv.values.flip(1), kv.positions, kv.weights)
    turned = [
        x.unflatten(1, (HEADS, GROUPS)).flip(1).flatten(1, 2) for x in (obs.queries, obs.probe)
    ]
    out = method.compress(swapped, replace(obs, queries=turned[0], probe=turned[1]), 9)
    assert torch.equal(out.keys.flip(1), method.compress(kv, obs, 9).keys)


@pytest.mark.parametrize("method", [m for m in METHODS if not isinstance(m, TOVA)], ids=repr)
def test_a_head_does_not_look_at_another(method):
    kv, obs = chunk(GRID)
    other, others = chunk(GRID, seed=1)

    def first_of(own, new, per_head):
        return torch.cat([own[:, :per_head], new[:, per_head:]], dim=1)

    mixed = LayerKV(
        first_of(kv.keys, other.keys, 1),
        first_of(kv.values, other.values, 1),
        kv.positions,
        kv.weights,
    )
    queries = first_of(obs.queries, others.queries, GROUPS)
    probe = first_of(obs.probe, others.probe, GROUPS)
    out = method.compress(mixed, replace(obs, queries=queries, probe=probe), 9)
    assert torch.equal(out.keys[:, 0], method.compress(kv, obs, 9).keys[:, 0])


@pytest.mark.parametrize("method", [*CONTENT, *ATTENTION], ids=repr)
def test_what_is_kept_follows_the_content_and_is_not_random(method):
    kept = [
        places(kv, method.compress(kv, obs, 9)) for kv, obs in (chunk(GRID), chunk(GRID, seed=1))
    ]
    assert not torch.equal(*kept)
    kv, obs = chunk(GRID)
    assert torch.equal(kept[0], places(kv, method.compress(kv, obs, 9)))
    assert not torch.equal(kept[0], places(kv, RandomPruning().compress(kv, obs, 9)))


@pytest.mark.parametrize(
    "method", [m for m in [*CONTENT, *ATTENTION] if not isinstance(m, LagKV)], ids=repr
)
def test_a_chunk_that_stands_elsewhere_is_scored_the_same(method):
    """Attention depends on distances only, also on those of the future positions and the probe."""
    here, there = chunk(GRID), chunk(GRID, shift=(40, 40, 40))
    assert torch.allclose(
        method.importance(*here, 9), method.importance(*there, 9), rtol=1e-3, atol=1e-5
    )


# --- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "tokens", "keep", "message"),
    [
        (
            SnapKV(window=64),
            1440,
            45,
            "snapkv: window=64: always kept, so it must be smaller than the kept count, here 45 of 1440 tokens, "
            "or nothing is left to choose; set window to null",
        ),
        (SnapKV(window=9), 48, 9, "snapkv: window=9: .* here 9 of 48"),
        (Streaming(sink=4), 128, 4, "streaming: sink=4: .* here 4 of 128 tokens"),
        (LagKV(lag=128), 200, 50, "lag_kv: lag=128: must give at least 2 partitions"),
        (
            LagKV(lag=8),
            1440,
            45,
            "lag_kv: lag=8: .* one for each kept KV, here 45 of 1440 .*set lag to null",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_the_budget_is_refused_with_the_remedy(method, tokens, keep, message):
    with pytest.raises(ValueError, match=message):
        method.check(tokens, keep)
    with pytest.raises(ValueError, match=message):
        method.importance(*chunk((tokens // 4, 2, 2)), keep)
    method.check(1440, 300)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: SnapKV(window=0), "snapkv: window=0: must be an integer >= 1"),
        (lambda: SnapKV(kernel=4), "snapkv: kernel=4: must be an odd integer >= 1"),
        (lambda: Streaming(sink=-1), "streaming: sink=-1: must be an integer >= 0"),
        (lambda: Streaming(sink=1.5), "streaming: sink=1.5: must be an integer >= 0"),
        (lambda: CUR(window=1), "cur: window=1: must be an integer >= 2"),
        (lambda: LagKV(lag=1), "lag_kv: lag=1: must be an integer >= 2"),
        (lambda: TemporalRedundancy(recent=0), "temporal_redundancy: recent=0"),
        (lambda: ExpectedAttention(future=0), "expected_attention: future=0"),
        (lambda: Compactor(block=1), "compactor: block=1"),
        (lambda: Compactor(sketch=0), "compactor: sketch=0"),
        (lambda: Compactor(blending=-1.0), "compactor: blending=-1.0: must be a number >= 0"),
        (lambda: Compactor(blending=math.nan), "compactor: blending=nan"),
    ],
)
def test_wrong_arguments_name_method_field_value_and_rule(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("method", ATTENTION, ids=repr)
def test_queries_that_were_not_asked_for_are_missed_by_name(method):
    kv, obs = chunk(GRID)
    with pytest.raises(ValueError, match="shown to a compressor that asks"):
        method.compress(kv, replace(obs, queries=None, probe=None), 9)


# --- formulas -------------------------------------------------------------------------------------------------------


def test_streaming_keeps_both_ends():
    kv, obs = chunk(GRID)
    for method, keep, sink in (
        (Streaming(), 20, 4),
        (Streaming(), 9, 2),
        (Streaming(sink=7), 9, 7),
    ):
        want = [*range(sink), *range(48 - keep + sink, 48)]
        assert places(kv, method.compress(kv, obs, keep)).tolist() == [want] * HEADS


def test_value_norm_keeps_the_largest():
    kv, obs = chunk(GRID)
    norms = kv.values[0].norm(dim=-1)
    out = ValueNorm().compress(kv, obs, 9).values[0].norm(dim=-1)
    assert torch.allclose(out.sort().values, norms.sort().values[:, -9:])


def test_key_diff_is_the_cosine_to_the_mean_direction():
    kv, obs = chunk(GRID, shift=(9, 0, 2))
    for head, keys in enumerate(rotated(kv, obs)):
        anchor = sum(k / k.norm() for k in keys) / len(keys)
        want = [-float(k @ anchor / (k.norm() * anchor.norm())) for k in keys]
        assert KeyDiff().score(kv, obs)[head].tolist() == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("window", [5, 16, 100])
def test_cur_is_the_product_of_norms_against_their_surroundings(window):
    kv, obs = chunk(GRID)
    count = max(1, 48 // window)
    got = CUR(window=window).score(kv, obs)
    for token in range(48):
        place = min(token // window, count - 1)
        around = slice(place * window, 48 if place == count - 1 else (place + 1) * window)
        for head in range(HEADS):
            want = 1.0
            for x in (kv.keys, kv.values):
                want *= float(
                    x[0, head, token].square().sum() / x[0, head, around].square().sum(-1).mean()
                )
            assert float(got[head, token]) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("lag", [5, 12, 20])
def test_lag_kv_ranks_by_the_range_of_the_next_partition(lag):
    kv, obs = chunk(GRID)
    edges = [*range(0, 48 // lag * lag, lag), 48]  # the rest joins the last
    spans = list(zip(edges, edges[1:], strict=False))
    got = LagKV(lag=lag).importance(kv, obs, 20)
    for head in range(HEADS):
        for index, (start, stop) in enumerate(spans):
            begin, end = spans[index + 1] if index + 1 < len(spans) else spans[index - 1]
            share = torch.zeros(stop - start, dtype=torch.float64)
            for x in (rotated(kv, obs)[head], kv.values[0, head].double()):
                low, high = x[begin:end].amin(0), x[begin:end].amax(0)
                share += ((x[start:stop] - low) / (high - low)).std(-1).softmax(-1) / 2
            rank = share.argsort().argsort()
            want = (rank + share) / (stop - start)
            assert got[head, start:stop].tolist() == pytest.approx(want.tolist(), rel=1e-4)


@pytest.mark.parametrize(("keep", "lag"), [(20, 12), (4, 12), (3, 16), (1, 24)])
def test_lag_kv_takes_time_steps_or_as_many_tokens_as_the_budget_has_partitions_for(keep, lag):
    kv, obs = chunk(GRID)
    assert torch.equal(LagKV().importance(kv, obs, keep), LagKV(lag=lag).importance(kv, obs, 20))


@pytest.mark.parametrize(("recent", "steps"), [(None, 8), (1, 4), (2, 4), (3, 4), (9, 4)])
def test_temporal_redundancy_compares_one_place_over_time(recent, steps):
    grid = (steps, 2, 3)
    kv, obs = chunk(grid)
    got = TemporalRedundancy(recent=recent).score(kv, obs)
    last = {None: steps // 4}.get(recent, min(recent or 0, steps))
    for token in range(kv.tokens):
        step, place = divmod(token, 6)
        others = [s for s in range(steps - last, steps) if s != step] or [step - 1]
        for head in range(HEADS):
            own = kv.keys[0, head, token]
            want = [
                torch.cosine_similarity(own, kv.keys[0, head, s * 6 + place], dim=0) for s in others
            ]
            assert float(got[head, token]) == pytest.approx(
                -sum(map(float, want)) / len(want), abs=1e-5
            )


def test_temporal_redundancy_keeps_what_moves():
    """Everything stands still but one place."""
    kv, obs = chunk((4, 3, 4))
    keys = kv.keys[:, :, :12].repeat(1, 1, 4, 1)
    keys[:, :, 7::12] = kv.keys[:, :, 7::12]
    still = LayerKV(keys, kv.values, kv.positions, kv.weights)
    assert (
        places(kv, TemporalRedundancy().compress(still, obs, 4)).tolist() == [[7, 19, 31, 43]] * 2
    )


def test_temporal_redundancy_of_one_step_is_the_value_norm():
    kv, obs = chunk((1, 3, 4))
    assert torch.equal(TemporalRedundancy().score(kv, obs), ValueNorm().score(kv, obs))


def attention(kv, obs):
    """The chunk's own causal attention in full, `(H, G, T, T)`."""
    logits = by_head(obs.queries) @ rotated(kv, obs)[:, None].mT * obs.scaling
    return logits.masked_fill(torch.ones(logits.shape[-2:]).triu(1).bool(), -math.inf).softmax(-1)


@pytest.mark.parametrize(("window", "kernel"), [(1, 1), (6, 5), (6, 1), (None, 3)])
def test_snapkv_pools_the_votes_of_its_window(window, kernel):
    kv, obs = chunk(GRID)
    got = SnapKV(window=window, kernel=kernel).importance(kv, obs, 12)
    last = 3 if window is None else window
    votes = attention(kv, obs)[:, :, -last:, : 48 - last].mean(dim=(1, 2))
    for head in range(HEADS):
        for token in range(48 - last):
            near = range(token - kernel // 2, token + kernel // 2 + 1)
            want = sum(float(votes[head, n]) for n in near if 0 <= n < 48 - last) / kernel
            assert float(got[head, token]) == pytest.approx(want, rel=1e-4)
    assert got[:, 48 - last :].isinf().all() and last > 0


def test_snapkv_of_fewer_than_four_has_no_window():
    kv, obs = chunk(GRID)
    got = SnapKV(kernel=1).importance(kv, obs, 3)
    assert torch.allclose(got.double(), attention(kv, obs)[:, :, -1].mean(1), rtol=1e-4)


def test_tova_keeps_the_same_tokens_in_every_head():
    kv, obs = chunk(GRID)
    want = attention(kv, obs)[:, :, -1].mean(dim=(0, 1))
    got = TOVA().score(kv, obs)
    assert torch.allclose(got.double(), want.expand(HEADS, -1), rtol=1e-4)


@pytest.mark.parametrize("block", [1, 7, 48, 256])
def test_attention_received_is_the_column_sum_whatever_the_blocks(block, monkeypatch):
    monkeypatch.setattr(pruning_by_attention, "BLOCK", block)
    kv, obs = chunk(GRID)
    want = attention(kv, obs).mean(1).sum(1)
    assert torch.allclose(AttentionReceived().score(kv, obs).double(), want, rtol=1e-4)
    average = AttentionReceived(average=True).score(kv, obs).double()
    assert torch.allclose(average * torch.arange(48, 0, -1), want, rtol=1e-4)


class Largest(TorchDispatchMode):
    """Remembers the largest result of any operation."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_attention_received_never_holds_the_full_matrix():
    kv, obs = chunk((9, 8, 8))
    with Largest() as largest:
        AttentionReceived().score(kv, obs)
    # 576 tokens: the second block of 256 queries sees 512 keys, the last 64 queries see all.
    assert largest.numel == HEADS * GROUPS * 256 * 512


def test_expected_attention_is_that_of_gaussian_queries_at_mean_positions():
    """Against queries drawn from the Gaussian that the method assumes, seed and all fixed: 4 % of the largest."""
    kv, obs = chunk(GRID, shift=(6, 6, 6), dtype=torch.float64)
    rope, first = obs.rope, int(obs.positions.max()) + 1
    obs = replace(obs, scaling=0.15)
    plain = by_head(rope.unrotate(obs.queries, obs.positions))
    keys, draw = rotated(kv, obs), torch.Generator().manual_seed(3)
    unit = torch.eye(WIDTH, dtype=torch.float64)[None, :, None]
    turns = [rope.apply_rope(unit, torch.full((3, 1), first + n))[0, :, 0] for n in range(48)]
    turn = sum(turns) / 48
    got = ExpectedAttention(future=48).score(kv, obs)
    for head in range(HEADS):
        share = torch.zeros(48, dtype=torch.float64)
        for group in range(GROUPS):
            queries = plain[head, group]
            centred = queries - queries.mean(0)
            root = torch.linalg.cholesky(centred.T @ centred / 48)
            noise = torch.randn(100_000, WIDTH, generator=draw, dtype=torch.float64)
            drawn = (queries.mean(0) + noise @ root.T) @ turn
            mean = (drawn @ keys[head].T * obs.scaling).exp().mean(0)
            share += mean / mean.sum() / GROUPS
        want = share * kv.values[0, head].norm(dim=-1)
        assert float((got[head] - want).abs().max() / want.max()) < 0.04


def test_compactor_blends_leverage_and_non_causal_attention():
    kv, obs = chunk(GRID)
    logits = by_head(obs.queries) @ rotated(kv, obs)[:, None].mT * obs.scaling
    got = Compactor(block=20).attention(kv, obs)
    for head in range(HEADS):
        sums = torch.zeros(48, dtype=torch.float64)
        for start in (0, 20, 40):
            span = slice(start, min(start + 20, 48))
            sums[span] = logits[head, :, span, span].softmax(-1).mean(0).sum(0)
        sums = sums * kv.values[0, head].norm(dim=-1)
        padded = torch.cat([sums.new_zeros(1), sums, sums.new_zeros(1)])
        want = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
        assert torch.allclose(got[head].double(), want, rtol=1e-4)
        centred = kv.keys[0, head].double() - kv.keys[0, head].double().mean(0)
        hat = (centred @ torch.linalg.pinv(centred)).diagonal()
        exact = Compactor(sketch=WIDTH).leverage(kv, obs)[head]
        assert torch.allclose(exact.double(), hat, rtol=1e-2)
    leverage = Compactor().leverage(kv, obs)
    both = Compactor(block=20, blending=0.3).importance(kv, obs, 9)
    assert torch.allclose(both.mean(-1), torch.zeros(HEADS), atol=1e-5)
    parts = [
        (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)
        for x in (leverage, got)
    ]
    assert torch.allclose(both, 0.3 * parts[0] + parts[1], atol=1e-4)
    quarter = Compactor(block=20).importance(kv, obs, 12)
    assert torch.allclose(quarter, 0.75 * parts[0] + parts[1], atol=1e-4)


def test_a_sketch_draws_by_video_and_its_leverage_is_near():
    kv, obs = chunk((16, 8, 8))
    exact = Compactor(sketch=WIDTH).leverage(kv, obs)
    near = Compactor(sketch=WIDTH - 1).leverage(kv, obs)
    assert torch.equal(near, Compactor(sketch=WIDTH - 1).leverage(kv, obs))
    assert not torch.equal(
        near, Compactor(sketch=WIDTH - 1).leverage(kv, replace(obs, video_seed=1))
    )
    for head in range(HEADS):
        assert torch.corrcoef(torch.stack([exact[head], near[head]]))[0, 1] > 0.5


def test_task_aware_follows_the_probe():
    kv, obs = chunk(GRID)
    want = (by_head(obs.probe) @ rotated(kv, obs)[:, None].mT * obs.scaling).softmax(-1)
    assert torch.allclose(TaskAware().score(kv, obs).double(), want.mean((1, 2)), rtol=1e-4)
    other = replace(obs, probe=obs.probe.flip(1))
    assert not torch.equal(
        places(kv, TaskAware().compress(kv, obs, 9)),
        places(kv, TaskAware().compress(kv, other, 9)),
    )


# --- compute --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*ATTENTION, Compactor(sketch=6, block=50)], ids=repr)
def test_flops_of_matrix_products_match_the_counter(method):
    for grid in ((4, 3, 4), (9, 8, 8)):
        kv, obs = chunk(grid)
        with flop_counter() as counted:
            method.compress(kv, obs, 13)
        sizes = Sizes(HEADS, HEADS * GROUPS, kv.tokens, 13, WIDTH, PROBE)
        assert method.flops(sizes) == counted.get_total_flops() > 0


@pytest.mark.parametrize("method", [*BLIND, *CONTENT], ids=repr)
def test_the_others_make_no_matrix_products(method):
    kv, obs = chunk(GRID)
    with flop_counter() as counted:
        method.compress(kv, obs, 9)
    assert counted.get_total_flops() == 0
    flops = method.flops(Sizes(HEADS, HEADS * GROUPS, kv.tokens, 9, WIDTH))
    assert (flops > 0) == (method in CONTENT)
