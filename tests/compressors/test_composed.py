"""What becomes of KVs that pruning drops; budgets of heads and layers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compressors.folders import HEADS, chunk, obs, real
from tests.tiny import frames, ours
from x2l.compressors.base import Compressor, Level
from x2l.compressors.clustering import DensityPeaks, KMeans
from x2l.compressors.composed import D2O, MergeIntoKept, PruneThenMerge
from x2l.compressors.head_budgets import AdaKV
from x2l.compressors.layer_budgets import apportioned, layer_counts, layer_shares
from x2l.compressors.merging import StaticMerging, ToMe
from x2l.compressors.pooling import MeanPool
from x2l.compressors.pruning_by_attention import SnapKV, TaskAware
from x2l.compressors.pruning_by_keys import KeyNorm, LagKV, Streaming
from x2l.compressors.pruning_controls import UniformPruning
from x2l.compressors.quantisation import Quantised
from x2l.compressors.stored_forms import Ragged
from x2l.engine.decode import answer
from x2l.engine.flops import kv_bytes
from x2l.engine.prefill import prefill

GRID = (4, 3, 4)
THREE = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]
QUESTION = "What is the colour of the star?"


def cosines(kv, kept):
    """`(H, T, K)`, plainly."""
    centres = torch.stack([kv.keys[0, head, index] for head, index in enumerate(kept)])
    return torch.nn.functional.cosine_similarity(kv.keys[0][:, :, None], centres[:, None], dim=-1)


@pytest.mark.parametrize("fold", ["values", "keys_values"])
def test_each_dropped_kv_goes_into_the_kept_one_of_most_similar_key(fold):
    kv, keep = chunk(GRID), 9
    kept = KeyNorm().chosen(kv, obs(GRID), keep)
    place = cosines(kv, kept).argmax(dim=-1)
    out = MergeIntoKept(KeyNorm(), fold).compress(kv, obs(GRID), keep)
    for head in range(HEADS):
        found = {}
        for number, index in enumerate(kept[head].tolist()):
            mine = (place[head] == number) | (torch.arange(48) == index)
            mine &= ~torch.isin(torch.arange(48), kept[head]) | (torch.arange(48) == index)
            key = kv.keys[0, head, mine].mean(0) if fold != "values" else kv.keys[0, head, index]
            at = kv.positions[:, 0, mine].mean(1) if fold != "values" else kv.positions[:, 0, index]
            found[number] = (int(mine.sum()), kv.values[0, head, mine].mean(0), key, at)
        for row in range(keep):
            match = [
                number
                for number, (size, value, key, at) in found.items()
                if torch.allclose(out.values[0, head, row], value, atol=1e-5)
                and torch.allclose(out.keys[0, head, row], key, atol=1e-5)
                and torch.allclose(out.positions[:, head, row], at, atol=1e-4)
                and out.weights[head, row] == size
            ]
            assert len(match) == 1


def test_d2o_recalls_what_is_similar_enough_and_drops_the_rest():
    kv, keep = chunk(GRID), 9
    kept = KeyNorm().chosen(kv, obs(GRID), keep)
    similar = cosines(kv, kept)
    out = D2O(KeyNorm(), proportional=True).compress(kv, obs(GRID), keep)
    for head in range(HEADS):
        dropped = ~torch.isin(torch.arange(48), kept[head])
        best, place = similar[head].max(dim=-1)
        used = dropped & (best >= best[dropped].mean())
        assert 0 < used.sum() < dropped.sum()
        want = []
        for number, index in enumerate(kept[head].tolist()):
            mine = used & (place == number)
            share = torch.cat([torch.tensor([1.0]), best[mine]]).exp()
            values = torch.cat([kv.values[0, head, [index]], kv.values[0, head, mine]])
            want.append((share[:, None] * values).sum(0) / share.sum())
        got = out.values[0, head]
        distance = (torch.stack(want)[:, None] - got[None]).abs().amax(-1)
        assert (distance.min(dim=1).values < 1e-5).all()
        assert out.weights[head].sum() == keep + used.sum()
    plain = D2O(KeyNorm()).compress(kv, obs(GRID), keep)
    assert (plain.weights == 1).all() and torch.equal(plain.values, out.values)


@pytest.mark.parametrize("merger", [ToMe(), KMeans(), DensityPeaks()], ids=lambda m: m.name)
def test_pruned_ones_are_untouched_and_all_others_merged(merger):
    """Of 12 KVs 6 are the smallest keys as they were; the others stand for all 42 that are left, head by head."""
    kv = chunk(GRID)
    out = PruneThenMerge(KeyNorm(), merger).compress(kv, obs(GRID), 12)
    kept = KeyNorm().chosen(kv, obs(GRID), 6)
    for head in range(HEADS):
        inputs = {tuple(row) for row in kv.keys[0, head, kept[head]].tolist()}
        outputs = [tuple(row) for row in out.keys[0, head].tolist()]
        untouched = torch.tensor([row in inputs for row in outputs])
        assert untouched.sum() == 6 and out.weights[head].sum() == 48
        left = torch.ones(48, dtype=torch.bool)
        left[kept[head]] = False
        mean = (out.values[0, head] * out.weights[head][:, None])[~untouched].sum(0) / 42
        assert torch.allclose(mean, kv.values[0, head, left].mean(0), atol=1e-5)


def test_one_kv_is_a_merged_one():
    out = PruneThenMerge(KeyNorm(), ToMe()).compress(chunk(GRID), obs(GRID), 1)
    assert torch.allclose(out.keys, chunk(GRID).keys.mean(2, keepdim=True), atol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        MergeIntoKept(SnapKV()),
        D2O(SnapKV()),
        PruneThenMerge(SnapKV(), ToMe()),
        AdaKV(SnapKV()),
    ],
    ids=lambda m: m.name,
)
def test_what_the_inner_method_needs_reaches_the_engine(method):
    """Queries are shown, the probe is asked, and a window that does not fit is refused before anything runs."""
    model = ours("qwen2_5_vl")
    prompt = model.prompt(frames(8), 4)
    assert method.needs == {"queries"}
    store = prefill(model, prompt, {"high": Level(method, 4)})
    assert store.kept("high") == (8, 8)
    probing = replace(method, pruner=TaskAware(probe=QUESTION))
    assert probing.needs == {"probe"} and probing.probe == QUESTION
    assert prefill(model, prompt, {"high": Level(probing, 4)}).kept("high") == (8, 8)
    narrow = replace(method, pruner=SnapKV(window=20))
    with pytest.raises(ValueError, match="snapkv.*window=20"):
        prefill(model, prompt, {"high": Level(narrow, 4)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MergeIntoKept(KeyNorm(), "keys"), "fold='keys': must be one of"),
        (lambda: MergeIntoKept(ToMe()), "merge_into_kept: pruner=ToMe.*must be a pruning method"),
        (lambda: D2O(MeanPool()), "d2o: pruner=MeanPool.*must be a pruning method"),
        (lambda: PruneThenMerge(KeyNorm(), ToMe(), share=1), "share=1: must be between 0"),
        (lambda: PruneThenMerge(KeyNorm(), StaticMerging()), "merger='static_merging': must merge"),
        (lambda: PruneThenMerge(ToMe(), ToMe()), "prune_then_merge: pruner=ToMe"),
        (lambda: PruneThenMerge(Streaming(sink=4), ToMe()).check(100, 8), "sink=4.*here 4 of"),
        (lambda: AdaKV(UniformPruning()), "pruner=UniformPruning.*must rank KVs"),
        (lambda: AdaKV(KeyNorm(), floor=1.5), r"floor=1.5: must be in \[0, 1\]"),
        (lambda: KMeans(iterations=0), "iterations=0: must be >= 1"),
        (lambda: DensityPeaks(neighbours=1), "neighbours=1: must be >= 2"),
        (lambda: AdaKV(Streaming(sink=9)).check(100, 9), "sink=9"),
        (lambda: MergeIntoKept(LagKV(lag=40)).check(60, 9), "lag=40"),
    ],
)
def test_what_cannot_work_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- budgets of heads and layers ------------------------------------------------------------------------------------


class Told(KeyNorm):
    """Ranks by a table, larger = keep."""

    table: torch.Tensor

    def score(self, kv, obs):
        return self.table


def told(rows):
    method = Told()
    object.__setattr__(method, "table", torch.tensor(rows))
    return method


def test_ada_kv_gives_heads_what_their_importance_is_worth():
    """The 12 largest of two heads' numbers, but at least a third of an equal budget each."""
    table = torch.stack([torch.arange(48.0), torch.arange(48.0) * 0.1])
    kv = chunk(GRID)
    out = AdaKV(told(table.tolist()), floor=0.0).compress(kv, obs(GRID), 6)
    assert real(out).sum(-1).tolist() == [11, 1]  # one is always kept
    out = AdaKV(told(table.tolist()), floor=0.34).compress(kv, obs(GRID), 6)
    assert real(out).sum(-1).tolist() == [10, 2]
    assert torch.equal(out.keys[0, 0], kv.keys[0, 0, 38:])
    assert torch.equal(out.keys[0, 1, :2], kv.keys[0, 1, 46:])
    assert (out.keys[0, 1, 2:] == kv.keys[0, 1, 47]).all()  # padding
    even = AdaKV(told(table.tolist()), floor=1.0).compress(kv, obs(GRID), 6)
    assert torch.equal(even.keys, told(table.tolist()).compress(kv, obs(GRID), 6).keys)


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.5, 1.0])
def test_ada_kv_budgets_are_the_official_ones_but_for_rounding(floor):
    """There round((1 - floor) * adaptive + int(floor * base)) each, whose sum may be off; here the sum is exact."""
    generator = torch.Generator().manual_seed(7)
    for keep in (1, 6, 17, 40):
        importance = torch.rand(5, 48, generator=generator) * torch.tensor([1, 1, 2, 5, 9])[:, None]
        counts = AdaKV(KeyNorm(), floor=floor).kept(importance, keep).sum(-1)
        best = importance.flatten().topk(5 * keep).indices // 48
        adaptive = best.bincount(minlength=5)
        official = torch.round(adaptive * (1 - floor) + int(floor * keep)).int()
        assert counts.sum() == 5 * keep and counts.min() >= 1
        assert (counts - official).abs().max() <= 1 + (official == 0).sum()


@pytest.mark.parametrize(("keep", "most"), [(45, 1440), (45, 60), (45, 80), (59, 60), (60, 60)])
def test_a_pyramid_is_the_official_line_at_any_ratio(keep, most):
    """There the first layer's number is cut to what there is, and the last one's such that the mean is met."""
    layers, last = 28, keep // 20
    first = 2 * keep - last
    if first >= most:
        first, last = most, 2 * keep - most
    step = (first - last) // (layers - 1)
    official = [first - index * step for index in range(layers)]
    counts = layer_counts("pyramid", layers, layers * keep, most)
    assert sum(counts) == layers * keep and list(counts) == sorted(counts, reverse=True)
    line = torch.linspace(first, last, layers)
    assert (torch.tensor(counts) - line).abs().max() <= (3 if most == 1440 else 1)
    assert official[0] == first and abs(counts[0] - first) <= 1 + 2 * keep / 20


@pytest.mark.parametrize("codec", [None, Quantised(8, 16)], ids=["plain", "int8"])
@pytest.mark.parametrize("family", THREE)
def test_heads_of_different_length_are_stored_without_padding(family, codec):
    model = ours(family)
    level = Level(AdaKV(SnapKV(), floor=0.1), 4, codec)
    even = Level(SnapKV(), 4, codec)
    store = prefill(
        model, model.prompt(frames(14), 4), {"low": even, "high": level}, context="high"
    )
    assert store.kept("high") == store.kept("low")
    assert store.measured_ratio("high") == store.measured_ratio("low")
    forms = [getattr(one, "visual", one) for kv in store.levels["high"] for one in kv.layers]
    uneven = [form for form in forms if isinstance(form, Ragged)]
    assert len(uneven) > len(forms) / 2
    assert any(form.nbytes < form.decode().nbytes for form in uneven)
    if codec is None:  # the total is that of equal heads
        assert store.nbytes("high") == store.nbytes("low")
    said = answer(model, store, model.question(QUESTION), store.reloading((1,)), 2)
    assert said.first_logits.isfinite().all()
    mixed = store.mix(["high", "low", "high", "high"])
    assert said.kv_bytes_stored == mixed.stored_bytes
    assert mixed.nbytes < mixed.kv.nbytes == said.kv_bytes_attended


def test_a_ragged_method_that_miscounts_is_caught():
    class Miscounting(AdaKV):
        def compress(self, kv, obs, keep):
            out = super().compress(kv, obs, keep)
            return replace(out, weights=out.weights.index_fill(1, torch.tensor([0]), 0.0))

    model = ours("qwen2_5_vl")
    level = Level(Miscounting(SnapKV()), 4)
    with pytest.raises(RuntimeError, match="'ada_kv' returned 7 KVs of 32.*told to keep 8"):
        prefill(model, model.prompt(frames(4), 4), {"high": level})


@given(
    shares=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
    most=st.integers(1, 60),
    part=st.floats(0, 1),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_shares_become_whole_numbers_with_the_right_sum(shares, most, part):
    layers = len(shares)
    total = layers + int(part * layers * (most - 1))
    numbers = apportioned(total, shares, most)
    assert sum(numbers) == total and min(numbers) >= 1 and max(numbers) <= most
    for one, n in zip(shares, numbers, strict=True):  # who has the larger share does not get less
        assert all(n >= m for other, m in zip(shares, numbers, strict=True) if one > other)
    inside = [(s, n) for s, n in zip(shares, numbers, strict=True) if 1 < n < most]
    if len(inside) == layers:
        want = [total * share / sum(shares) for share in shares]
        assert all(abs(n - w) < 1 for n, w in zip(numbers, want, strict=True))


def test_a_pyramid_falls_with_depth():
    numbers = apportioned(4 * 45, layer_shares("pyramid", 4), 1440)
    assert numbers == (88, 59, 31, 2)
    assert layer_shares("pyramid", 1) == layer_shares("uniform", 1) == (1.0,)
    steps = torch.tensor(layer_shares("pyramid", 28), dtype=torch.float64).diff()
    assert torch.allclose(steps, steps[0].expand(27)) and steps[0] < 0


@pytest.mark.parametrize("layers", ["pyramid", (1.0, 3.0, 2.0, 2.0)], ids=str)
@pytest.mark.parametrize("family", THREE)
def test_layers_get_their_share_and_the_total_stays(family, layers):
    model = ours(family)
    levels = {"low": Level(KeyNorm(), 3), "high": Level(KeyNorm(), 3, layers=layers)}
    store = prefill(model, model.prompt(frames(14), 4), levels, context="high")
    assert store.kept("high") == store.kept("low") and store.nbytes("high") == store.nbytes("low")
    for kv, chunk_ in zip(store.levels["high"], store.prompt.chunks, strict=True):
        text = chunk_.tokens - chunk_.visual_tokens
        want = levels["high"].counts([chunk_.visual_tokens], 4)[0]
        assert kv.tokens == tuple(n + text for n in want) and len(set(want)) > 1
    mixed = store.mix(["high", "low", "high", "high"])
    for index, layer in enumerate(mixed.kv.layers):
        spans = mixed.spans[index]
        assert spans[0][0] == store.prompt.prefix and spans[-1][1] == layer.tokens
        assert [b - a for a, b in spans] == [
            store.levels[name][i].tokens[index]
            for i, name in enumerate(["high", "low", "high", "high"])
        ]
    said = answer(model, store, model.question(QUESTION), store.reloading((1,)), 2)
    assert said.first_logits.isfinite().all() and said.kv_bytes_attended == mixed.kv.nbytes
    tokens = sum(mixed.kv.tokens)
    assert mixed.kv.nbytes == kv_bytes(model.shape, 1) * tokens // model.shape.layers


def test_a_layer_that_may_keep_everything_is_not_compressed():
    """At ratio 1.1 the pyramid's first layers keep all tokens, bit for bit; their compressor is not even asked."""

    class Strict(ToMe):
        def compress(self, kv, obs, keep):
            assert keep < kv.tokens
            return super().compress(kv, obs, keep)

    model = ours("qwen2_5_vl")
    levels = {"low": Level(KeyNorm(), 1), "high": Level(Strict(), 1.1, layers="pyramid")}
    store = prefill(model, model.prompt(frames(8), 4), levels)
    raw, kept = store.levels["low"][0].layers, store.levels["high"][0].layers
    assert kept[0].tokens == 32 > kept[-1].tokens
    assert torch.equal(raw[0].keys, kept[0].keys)


@pytest.mark.parametrize(
    "level",
    [Level(KeyNorm(), 4, layers="pyramid"), Level(AdaKV(KeyNorm()), 4)],
    ids=["layers", "heads"],
)
def test_uneven_budgets_and_compact_positions_do_not_go_together(level):
    model = ours("qwen2_5_vl")
    with pytest.raises(ValueError, match=r"positions='compact': levels \['high'\] keep different"):
        prefill(model, model.prompt(frames(4), 4), {"high": level}, positions="compact")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("steep", "layers='steep': must be 'uniform'"),
        ((1.0, 2.0), r"layers=\[1.0, 2.0\]: must be 4 positive numbers, one for each layer"),
        ((1.0, 2.0, 0.0, 1.0), "must be 4 positive numbers"),
    ],
)
def test_shares_that_do_not_fit_the_model_are_refused(layers, message):
    model = ours("qwen2_5_vl")
    with pytest.raises(ValueError, match=message):
        prefill(model, model.prompt(frames(4), 4), {"high": Level(KeyNorm(), 4, layers=layers)})


def test_even_levels_are_even():
    assert Level(KeyNorm(), 4).even and Level(KeyNorm(), 4, layers="uniform").even
    assert Level(KeyNorm(), 4).counts([33], 3) == ((9, 9, 9),)
    assert issubclass(AdaKV, Compressor) and not Level(AdaKV(KeyNorm()), 4).even
