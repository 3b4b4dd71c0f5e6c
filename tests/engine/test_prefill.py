"""The chunked pre-fill, the store and the mixed cache."""

from dataclasses import dataclass, replace
from math import ceil

import pytest
import torch

from tests.tiny import FAMILIES, frames, ours
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pooling import MeanPool
from x2l.compressors.pruning_base import ScoredPruning
from x2l.compressors.pruning_by_attention import TaskAware
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.pruning_controls import RandomPruning, UniformPruning
from x2l.engine.decode import answer, ask
from x2l.engine.flops import decoder_flops
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.models.attention import AttentionCapture, _scope
from x2l.models.positions import Placement

QUESTION = "What is the colour of the star?"
COMPRESSORS = [KeyNorm(), RandomPruning(), UniformPruning(), ToMe(), MeanPool()]


def filled(low, high, model=None, chunk_frames=4, count=14, **settings):
    model = model or ours("qwen2_5_vl")
    return prefill(
        model, model.prompt(frames(count), chunk_frames), {"low": low, "high": high}, **settings
    )


def logits(store, assignment, model=None):
    model = model or ours("qwen2_5_vl")
    mixed = store.mix(assignment)
    return ask(model, model.load_cache(mixed.kv), model.question(QUESTION), mixed.place)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: c.name)
def test_every_chunk_keeps_exactly_its_share_the_short_last_one_too(compressor):
    for count in (14, 13, 9):
        store = filled(Level(compressor, 3), Level(compressor, 32), count=count)
        visual = [chunk.visual_tokens for chunk in store.prompt.chunks]
        assert visual[-1] < visual[0]
        assert store.kept("low") == tuple(ceil(n / 3) for n in visual)
        assert store.kept("high") == tuple(ceil(n / 32) for n in visual)
        assert store.measured_ratio("low") == sum(visual) / sum(store.kept("low"))
        for level in ("low", "high"):
            assert all(len(set(kv.tokens)) == 1 for kv in store.levels[level])


def test_text_inside_a_chunk_is_none_of_its_share():
    """Qwen3-VL has timestamps there, which every level keeps."""
    store = filled(Level(KeyNorm(), 3), Level(KeyNorm(), 32), ours("qwen3_vl"))
    visual = [chunk.visual_tokens for chunk in store.prompt.chunks]
    assert all(chunk.tokens > chunk.visual_tokens for chunk in store.prompt.chunks)
    assert store.kept("low") == tuple(ceil(n / 3) for n in visual)


def test_a_probe_text_stands_right_behind_its_chunk(monkeypatch):
    model, level = ours("qwen2_5_vl"), Level(TaskAware(), 2)
    spans, real = [], model.prefill_span

    def placed(embedded, positions, *others):
        spans.append(positions)
        return real(embedded, positions, *others)

    monkeypatch.setattr(model, "prefill_span", placed)
    chunks = filled(level, level, model).prompt.chunks
    tokens = torch.arange(len(model.question(TaskAware().probe).input_ids))
    assert len(spans) == 1 + 2 * len(chunks)  # what stands before the video; each chunk, its probe
    for chunk, probe in zip(spans[1::2], spans[2::2], strict=True):
        assert torch.equal(probe, (tokens + chunk.max() + 1).expand(len(probe), -1))


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: c.name)
def test_all_of_one_level_equals_a_run_with_that_level_alone(compressor, positions):
    levels = {"low": Level(compressor, 2), "high": Level(compressor, 8)}
    for name, level in levels.items():
        both = filled(*levels.values(), context=name, positions=positions)
        alone = filled(level, level, context=name, positions=positions)
        assert torch.equal(logits(both, [name] * 4), logits(alone, [name] * 4))


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_own_context_is_one_pass_a_level(positions):
    low, high = Level(KeyNorm(), 2), Level(ToMe(), 8)
    own = filled(low, high, context="own", positions=positions)
    only_low = filled(low, low, context="low", positions=positions)
    only_high = filled(high, high, context="high", positions=positions)
    assert torch.equal(logits(own, ["low"] * 4), logits(only_low, ["low"] * 4))
    assert torch.equal(logits(own, ["high"] * 4), logits(only_high, ["high"] * 4))


def test_context_changes_what_later_chunks_hold():
    """Negative control of the two tests above."""
    low, high = Level(KeyNorm(), 2), Level(ToMe(), 8)
    stores = {c: filled(low, high, context=c) for c in ("full", "low", "high")}
    values = {c: s.levels["low"][-1].layers[-1].values for c, s in stores.items()}
    assert not torch.allclose(values["full"], values["low"]) and not torch.allclose(
        values["low"], values["high"]
    )
    first = {c: s.levels["low"][0].layers[-1].values for c, s in stores.items()}
    assert torch.equal(first["full"], first["high"])  # nothing precedes the first chunk


@pytest.mark.parametrize(
    ("family", "compressor"),
    [("qwen2_5_vl", each) for each in COMPRESSORS] + [(each, ToMe()) for each in FAMILIES],
    ids=lambda value: getattr(value, "name", value),
)
def test_mixing_is_pure_and_in_time_order(family, compressor):
    store = filled(Level(compressor, 2), Level(compressor, 8), ours(family))
    copies = [
        layer.keys.clone() for kvs in store.levels.values() for kv in kvs for layer in kv.layers
    ]
    mixed = store.mix(["low", "high", "low", "high"])
    for layer in mixed.kv.layers:
        ends = [layer.positions[0, :, start:stop] for start, stop in mixed.spans[0]]
        for before, after in zip(ends, ends[1:], strict=False):  # chunk by chunk
            assert (before.max(dim=-1).values < after.min(dim=-1).values).all()
        if isinstance(compressor, UniformPruning | ScoredPruning):  # and KV by KV
            assert (layer.positions[0].diff(dim=-1) >= 0).all()
    again = [layer.keys for kvs in store.levels.values() for kv in kvs for layer in kv.layers]
    assert all(torch.equal(a, b) for a, b in zip(copies, again, strict=True))
    for (start, stop), level, index in zip(
        mixed.spans[0], ["low", "high", "low", "high"], range(4), strict=True
    ):
        part = store.levels[level][index].layers[0]
        assert torch.equal(mixed.kv.layers[0].keys[:, :, start:stop], part.keys)


def test_more_than_two_levels_mix():
    model = ours("qwen2_5_vl")
    levels = {"low": Level(KeyNorm(), 2), "middle": Level(MeanPool(), 8), "high": Level(ToMe(), 32)}
    store = prefill(model, model.prompt(frames(14), 4), levels)
    kept = [store.kept(level)[i] for i, level in enumerate(["low", "middle", "high", "middle"])]
    assert store.mix(["low", "middle", "high", "middle"]).kv.tokens[0] == store.prompt.prefix + sum(
        kept
    )


def test_next_position_does_not_depend_on_what_was_kept():
    store = filled(Level(KeyNorm(), 2), Level(ToMe(), 32))
    places = {
        store.mix(a).place for a in (["low"] * 4, ["high"] * 4, ["high", "low", "low", "high"])
    }
    assert places == {filled(Level(KeyNorm(), 1), Level(KeyNorm(), 1)).mix(["low"] * 4).place}


def test_compact_closes_gaps_in_time_only():
    store = filled(Level(UniformPruning(), 2), Level(UniformPruning(), 16), positions="compact")
    keep = filled(Level(UniformPruning(), 2), Level(UniformPruning(), 16), positions="keep")
    mixed, kept = store.mix(["low"] * 4), keep.mix(["low"] * 4)
    positions, original = mixed.kv.layers[0].positions, kept.kv.layers[0].positions
    assert torch.equal(positions[1:], original[1:])
    begin = store.prompt.prefix
    video = original[0, 0, begin:] - original[0, 0, begin]
    assert torch.allclose(positions[0, 0, begin:] - positions[0, 0, begin], video / 2, atol=1.0)
    assert mixed.place.next_position < kept.place.next_position
    assert mixed.place.next_position > positions.max()


def test_bad_assignment_is_refused():
    store = filled(Level(KeyNorm(), 2), Level(KeyNorm(), 8))
    for wrong in (["low"] * 3, ["low", "low", "low", "medium"]):
        with pytest.raises(
            ValueError,
            match=r"must name one of the levels \['low', 'high'\] for each of the 4 chunks",
        ):
            store.mix(wrong)


def test_reloading_takes_the_levels_from_the_store_and_refuses_unknown_chunks():
    levels = {"fine": Level(KeyNorm(), 2), "mid": Level(KeyNorm(), 4), "rest": Level(KeyNorm(), 8)}
    model = ours("qwen2_5_vl")
    store = prefill(model, model.prompt(frames(14), 4), levels)
    assert store.reloading({2, 0}) == ("fine", "rest", "fine", "rest")
    said = answer(model, store, model.question(QUESTION), ("fine", "mid", "rest", "rest"), 1)
    assert said.kv_bytes_reloaded == store.stored_bytes("fine")[0] + store.stored_bytes("mid")[1]
    assert store.nbytes_host == sum(store.stored_bytes("fine") + store.stored_bytes("mid"))
    for wrong in ([99], [-1], [1, 4]):
        with pytest.raises(ValueError, match=r"selected=\[.*\]: the video has 4 chunks; number"):
            store.reloading(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": "mean"}, "prefill.context='mean': must be full, own, or one of"),
        ({"positions": "shift"}, "prefill.positions='shift': must be one of"),
        (
            {"chunk_frames": 3},
            "prefill.chunk_frames=3: must be a positive multiple of the model's temporal patch",
        ),
        ({"chunk_frames": 0}, "prefill.chunk_frames=0"),
    ],
)
def test_wrong_settings_name_field_value_and_rule(settings, message):
    with pytest.raises(ValueError, match=message):
        filled(Level(KeyNorm(), 2), Level(KeyNorm(), 8), **settings)


@dataclass(frozen=True)
class Greedy(ScoredPruning):
    """A compressor that keeps one too many."""

    name: str = "greedy"

    def score(self, kv, obs):
        return kv.keys[0].norm(dim=-1)

    def compress(self, kv, obs, keep):
        return super().compress(kv, obs, keep + 1)

    def flops(self, sizes):
        return 0


def test_a_wrong_count_fails_loudly():
    with pytest.raises(
        RuntimeError,
        match="'greedy' returned 9 KVs of 32 in chunk 0, layer 0; it was told to keep 8",
    ):
        filled(Level(Greedy(), 4), Level(KeyNorm(), 8))


@dataclass(frozen=True)
class Curious(ScoredPruning):
    """Scores by the chunk's own queries, and remembers what it was shown."""

    shown: list
    name: str = "curious"
    needs = frozenset({"queries"})

    def score(self, kv, obs):
        self.shown.append(obs.queries.shape)
        return obs.queries[0, :: obs.queries.shape[1] // kv.keys.shape[1]].norm(dim=-1)

    def flops(self, sizes):
        return 0


def test_a_compressor_gets_the_queries_it_needs():
    shown = []
    filled(Level(Curious(shown), 2), Level(KeyNorm(), 8))
    assert set(shown) == {(1, 8, 32, 8), (1, 8, 16, 8)}


@dataclass(frozen=True)
class Nosy(ScoredPruning):
    """Keeps what it was shown."""

    shown: list
    name: str = "nosy"
    needs = frozenset({"queries", "probe"})
    probe: str = "What happens here?"

    def score(self, kv, obs):
        self.shown.append((kv, obs))
        return kv.keys[0].norm(dim=-1)

    def flops(self, sizes):
        return 0


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v", "llava_onevision"])
def test_a_probe_is_a_question_asked_right_behind_the_chunk(family):
    """Its queries are those of the same question over the uncompressed KVs, and nothing of it stays."""
    model, shown, meter = ours(family), [], Meter()
    prompt = model.prompt(frames(8), 8)
    levels = {"low": Level(KeyNorm(), 1), "high": Level(Nosy(shown), 4)}
    store = prefill(model, prompt, levels, meter=meter)
    question, capture = model.question("What happens here?"), AttentionCapture()
    mixed = store.mix(["low"])
    behind = Placement(int(prompt.chunks[0].positions.max()) + 1, 0)
    ask(model, model.load_cache(mixed.kv), question, behind, capture)
    assert len(shown) == model.shape.layers
    for index, (kv, obs) in enumerate(shown):
        assert (obs.probe - capture.queries[index]).abs().max() < 1e-4
        assert obs.scaling == pytest.approx(capture.scaling[index])
        # Turned to their positions, keys are what attention saw; queries come back to where they were.
        assert torch.allclose(
            obs.rope.apply_rope(kv.keys, obs.positions), model.rotate(kv), atol=1e-5
        )
        plain = obs.rope.unrotate(obs.queries, obs.positions)
        assert torch.allclose(obs.rope.apply_rope(plain, obs.positions), obs.queries, atol=1e-4)
    assert meter.flops["compression"] >= decoder_flops(
        model.shape, len(question.input_ids), prompt.tokens + len(question.input_ids)
    )
    plain = prefill(model, prompt, {"low": levels["low"], "high": Level(KeyNorm(), 4)})
    assert torch.equal(
        plain.levels["low"][0].layers[-1].keys, store.levels["low"][0].layers[-1].keys
    )


def test_nothing_stays_behind_after_an_exception():
    model = ours("qwen2_5_vl")
    prompt = model.prompt(frames(8), 4)
    twice = torch.tensor([[2, 16, 16]])  # twice the size that the prompt has tokens for
    broken = replace(prompt, visual={**prompt.visual, "grid_thw": twice})
    with pytest.raises(ValueError, match="features and .*tokens do not match"):
        prefill(model, broken, {"high": Level(KeyNorm(), 2)})
    assert not model.decoder._forward_pre_hooks
    assert _scope.get() is None


def test_same_seed_same_answers():
    def run(seed):
        model = ours("qwen2_5_vl")
        levels = {"low": Level(RandomPruning(), 2), "high": Level(RandomPruning(), 8)}
        store = prefill(model, model.prompt(frames(14), 4), levels, video_seed=seed)
        return answer(model, store, model.question(QUESTION), store.reloading((1,)), 8).first_logits

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_one_prefill_serves_many_questions_in_any_order():
    model = ours("qwen2_5_vl")
    store = filled(Level(KeyNorm(), 2), Level(ToMe(), 8))
    a, b = model.question(QUESTION), model.question("How many times does the star appear?")
    first = answer(model, store, a, store.reloading((0,)), 4)
    answer(model, store, b, store.reloading((1, 2)), 4)
    again = answer(model, store, a, store.reloading((0,)), 4)
    assert first.token_ids == again.token_ids and torch.equal(
        first.first_logits, again.first_logits
    )


def test_weights_of_merged_kvs_count_as_that_many_tokens():
    """log(n) on a KV equals n copies of it in the cache."""
    model = ours("qwen2_5_vl")
    store = filled(Level(UniformPruning(), 2), Level(UniformPruning(), 8))
    mixed = store.mix(["high"] * 4)
    layers, doubled = [], []
    for layer in mixed.kv.layers:
        weights = layer.weights.expand(2, -1).clone()
        weights[:, 20] = 3.0
        layers.append(replace(layer, weights=weights))
        index = torch.tensor([*range(layer.tokens), 20, 20])
        doubled.append(layer.take(index))
    question = model.question(QUESTION)
    plain = ask(model, model.load_cache(mixed.kv), question, mixed.place)
    weighted = ask(
        model, model.load_cache(replace(mixed.kv, layers=tuple(layers))), question, mixed.place
    )
    copies = ask(
        model, model.load_cache(replace(mixed.kv, layers=tuple(doubled))), question, mixed.place
    )
    assert torch.allclose(weighted, copies, atol=2e-5)
    assert not torch.allclose(weighted, plain, atol=1e-3)


def test_layers_may_hold_different_numbers_of_kvs():
    """The mask of a layer follows its own length, not the first layer's."""
    model = ours("qwen2_5_vl", torch.float64)
    store = filled(Level(KeyNorm(), 1), Level(KeyNorm(), 1), model)
    mixed = store.mix(["low"] * 4)
    question = model.question(QUESTION)
    layers = []
    for index, layer in enumerate(mixed.kv.layers):
        if index == 2:
            extra = layer.take(torch.tensor([*range(layer.tokens), 5, 6]))
            weights = extra.weights.clone()
            weights[:, -2:] = 1e-38  # so light that no query sees them
            layer = replace(extra, weights=weights)
        layers.append(layer)
    ragged = replace(mixed.kv, layers=tuple(layers))
    assert len(set(ragged.tokens)) == 2
    want = ask(model, model.load_cache(mixed.kv), question, mixed.place)
    got = ask(model, model.load_cache(ragged), question, mixed.place)
    assert torch.allclose(got, want, atol=1e-9)


def test_progress_and_meter_cover_every_chunk():
    model, meter, calls = ours("qwen2_5_vl"), Meter(), []
    levels = {"low": Level(ToMe(), 2), "high": Level(KeyNorm(), 8)}
    prefill(
        model,
        model.prompt(frames(14), 4),
        levels,
        "own",
        meter=meter,
        progress=lambda *at: calls.append(at),
    )
    assert calls == [(i, 4) for i in range(1, 5)]
    assert all(
        meter.seconds[s] > 0 and meter.flops[s] > 0 for s in ("vision", "prefill", "compression")
    )


def test_bf16_runs_end_to_end():
    model = ours("qwen2_5_vl", torch.bfloat16)
    for compressor in COMPRESSORS:
        store = filled(Level(compressor, 2), Level(compressor, 8), model, context="high")
        assert store.levels["low"][0].layers[0].keys.dtype == torch.bfloat16
        assert (
            answer(model, store, model.question(QUESTION), store.reloading((1,)), 3)
            .first_logits.isfinite()
            .all()
        )
