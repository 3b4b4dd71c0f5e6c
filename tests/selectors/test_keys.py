"""Products with keys, against plain loops over what a full run of the question shows."""

import math

import pytest
import torch

from tests.selectors.stores import PROMPT, QUESTION, model_of, query_of, store_of, watched
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.meter import Meter
from x2l.models.positions import Placement
from x2l.selectors.base import RunFacts
from x2l.selectors.keys import KeysSelector

HEADS = ((0, 3), (2, 0), (2, 5))
FACTS = RunFacts("x2l_tiny", "abc", "needle/test", {"low": False, "high": False})


def relevance(selector, family, store, **fields):
    meter = Meter()
    query = query_of(family, **fields)
    return selector.relevance(query, store, model_of(family), meter), meter


def by_hand(family, store, heads, level, rope, pool, question=None, tokens=None):
    """One loop for every head, token and chunk; nothing of x2l's selectors is used."""
    model, question = model_of(family), question or query_of(family).question
    chunks = len(store.prompt.chunks)
    _, watch = watched(family, store, ["high"] * chunks, question)
    place = store.mix(["high"] * chunks).place
    of_level = store.mix([level] * chunks)
    count = len(question.input_ids)
    own = (torch.arange(count) + place.next_position).expand(model.axes, -1)
    moved = (torch.arange(count) + of_level.place.next_position).expand(model.axes, -1)
    rows = []
    for layer, head in heads or [(a, b) for a in range(4) for b in range(8)]:
        queries = model.unrotate(watch.queries[layer], own)
        stored = of_level.kv.layers[layer]
        keys = stored.keys
        if rope:
            queries, keys = model.apply_rope(queries, moved), model.rotate(stored)
        for token in range(count) if tokens is None else tokens:
            row = []
            for start, stop in of_level.spans[layer]:
                keys_of_chunk = keys[0, head // 4, start:stop]
                products = (keys_of_chunk @ queries[0, head, token] * model.scaling).tolist()
                row.append(
                    {
                        "max": max(products),
                        "mean": sum(products) / len(products),
                        "lse": math.log(sum(map(math.exp, products))),
                    }[pool]
                )
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).view(
        -1, len(rows) if not heads else len(rows) // len(heads), chunks
    )


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "internvl", "glm4v"])
def test_heads_found_elsewhere_give_their_largest_product(family, positions, rope):
    store = store_of(family, positions)
    for level in ("low", "high"):
        got, _ = relevance(KeysSelector(HEADS, level, rope), family, store)
        want = by_hand(family, store, HEADS, level, rope, "max").amax(dim=1).mean(dim=0)
        assert torch.allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("pool", ["lse", "mean"])
def test_without_heads_each_is_put_on_a_scale_of_its_own(pool):
    store = store_of("qwen2_5_vl")
    got, _ = relevance(KeysSelector(pool=pool), "qwen2_5_vl", store)
    rows = by_hand("qwen2_5_vl", store, None, "low", True, pool)[0]
    z = [(row - row.mean()) / row.std(correction=0) for row in rows]
    assert torch.allclose(got, torch.stack(z).amax(dim=0), atol=1e-9)


def test_lse_is_the_rule_without_heads():
    store = store_of("qwen2_5_vl")
    got, _ = relevance(KeysSelector(), "qwen2_5_vl", store)
    assert torch.equal(got, relevance(KeysSelector(pool="lse"), "qwen2_5_vl", store)[0])


def test_frames_are_rated_by_the_keys_of_their_time_step():
    """Nothing is dropped at the level, so that a step's keys are known by counting."""
    family = "qwen2_5_vl"
    store = store_of(family, low=Level(KeyNorm(), 1), high=Level(KeyNorm(), 4))
    model, query = model_of(family), query_of(family)
    got = KeysSelector(HEADS[:1]).frame_relevance(query, store, model)
    assert [len(frames) for frames in got] == [4, 4, 4, 2]  # two frames a step
    ((layer, head),) = HEADS[:1]
    _, watch = watched(family, store, ["high"] * 4, query.question)
    keys = model.rotate(store.mix(["low"] * 4).kv.layers[layer])[0, head // 4]
    at = len(store.prefix.layers[layer].keys[0, 0])
    for frames, chunk in zip(got, store.prompt.chunks, strict=True):
        for step, tokens in enumerate(chunk.steps):
            products = watch.queries[layer][0, head] @ keys[at : at + tokens].T * model.scaling
            assert torch.allclose(frames[2 * step : 2 * step + 2], products.max(), atol=1e-9)
            at += tokens
    values = torch.cat(got).tolist()
    assert len(set(values)) == 7  # each step has its own


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", ["qwen3_vl", "internvl"])
def test_the_best_frame_of_a_chunk_is_as_relevant_as_the_chunk(family, positions):
    """By one head: the most of a chunk's keys is that of one of its steps, wherever what was kept of it stands."""
    store, model = store_of(family, positions), model_of(family)
    for selector in (KeysSelector(HEADS[:1]), KeysSelector(HEADS[:1], null_question="N/A")):
        frames = selector.frame_relevance(query_of(family), store, model)
        assert [len(of) for of in frames] == [4, 4, 4, 2]
        if selector.null_question is None:
            want, _ = relevance(selector, family, store)
            best = torch.stack([of_chunk.max() for of_chunk in frames])
            assert torch.allclose(best, want, atol=1e-9)
        assert torch.cat(frames).isfinite().all()


def test_a_head_that_tells_no_chunk_from_another_says_nothing():
    from x2l.selectors.head_keys import combined

    flat = torch.full((1, 2, 3), 0.5, dtype=torch.float64)
    assert combined(flat, "z_max").tolist() == [0, 0, 0]
    told = torch.tensor([[[0.0, 0.0, 3.0]]], dtype=torch.float64)
    assert torch.equal(
        combined(torch.cat([flat, told.expand(1, 2, 3)]), "z_max"),
        combined(told, "z_max").clamp(min=0),
    )


def test_only_the_questions_own_words_where_asked():
    store, question = store_of("qwen2_5_vl"), query_of("qwen2_5_vl").question
    got, _ = relevance(KeysSelector(HEADS, tokens="question"), "qwen2_5_vl", store)
    tokens = question.tokens_of(QUESTION).tolist()
    assert 0 < len(tokens) < len(question.input_ids)
    want = by_hand("qwen2_5_vl", store, HEADS, "low", True, "max", tokens=tokens)
    assert torch.allclose(got, want.amax(dim=1).mean(dim=0), atol=1e-9)
    assert not torch.equal(got, relevance(KeysSelector(HEADS), "qwen2_5_vl", store)[0])


def test_what_asks_nothing_is_taken_off():
    store, model = store_of("qwen2_5_vl"), model_of("qwen2_5_vl")
    got, _ = relevance(KeysSelector(HEADS, null_question="N/A"), "qwen2_5_vl", store)
    null = model.question(PROMPT.replace(QUESTION, "N/A"))
    parts = [
        by_hand("qwen2_5_vl", store, HEADS, "low", True, "max", question).amax(dim=1).mean(dim=0)
        for question in (None, null)
    ]
    assert torch.allclose(got, parts[0] - parts[1], atol=1e-9)


def test_only_the_heads_keys_are_streamed_and_none_of_a_resident_level():
    store, model = store_of("qwen2_5_vl"), model_of("qwen2_5_vl")
    _, meter = relevance(KeysSelector(HEADS), "qwen2_5_vl", store)
    of_one_head = sum(kv.layers[0].keys[0, 0].nbytes for kv in store.levels["low"])
    assert meter.streamed_bytes == 3 * of_one_head  # KV heads (0, 0), (2, 0), (2, 1)
    assert meter.streamed_bytes * 16 == 3 * sum(
        store.nbytes("low")
    )  # of 4 layers, 2 heads, keys and values
    _, meter = relevance(KeysSelector(HEADS, level="high"), "qwen2_5_vl", store)
    assert meter.streamed_bytes == 0
    assert model.shape.layers == 4


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_a_resident_index_says_the_same_and_streams_nothing(dtype, error):
    family, store = "qwen2_5_vl", store_of("qwen2_5_vl")
    selector = KeysSelector(HEADS, index="resident", dtype=dtype)
    index = selector.remember(store, model_of(family), Meter())
    got, meter = relevance(selector, family, store, prepared=index)
    want, streamed = relevance(KeysSelector(HEADS), family, store)
    assert torch.allclose(got, want, atol=error, rtol=error)
    assert meter.streamed_bytes == 0
    smaller = {"float32": 2, "bfloat16": 4}[dtype]  # than fp64
    assert index.nbytes * smaller == streamed.streamed_bytes
    assert KeysSelector(HEADS).remember(store, model_of(family), Meter()) is None


def test_compact_positions_need_no_other_store():
    """The question stands where it would behind that level alone; the pass itself is over the coarsest."""
    store = store_of("internvl", "compact")
    assert store.place("low") != store.place("high")
    assert isinstance(store.place("low"), Placement)
    assert store.place("low") == store.mix(["low"] * 4).place


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": "no.json"}, r"selector\.keys\.heads=no\.json: cannot be read \(No such file"),
        (
            {"heads": [[0]]},
            r"selector\.keys\.heads=\[\[0\]\]: must be null \(all heads\), a list of \[layer",
        ),
        ({"heads": []}, r"selector\.keys\.heads=\[\]: must be null"),
        ({"heads": [[0, -1]]}, r"selector\.keys\.heads=\[\[0, -1\]\]: must be"),
        ({"tokens": "some"}, r"selector\.keys\.tokens='some': must be one of"),
        ({"index": "disk"}, r"selector\.keys\.index='disk': must be one of"),
        ({"pool": "min"}, r"selector\.keys\.pool='min': must be one of"),
        ({"dtype": "int3"}, r"selector\.keys\.dtype='int3': must be one of"),
    ],
)
def test_refuses_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        KeysSelector.load(**settings)


def test_refuses_a_level_without_keys_before_anything_is_loaded():
    KeysSelector().check(FACTS)
    with pytest.raises(
        ValueError,
        match=r"selector\.keys\.level=mid: must be a level that keeps KVs; use one of low, high",
    ):
        KeysSelector(level="mid").check(FACTS)
    dropped = RunFacts("x2l_tiny", None, None, {"low": False, "high": True})
    with pytest.raises(
        ValueError, match=r"level=high: must be a level that keeps KVs; use one of low"
    ):
        KeysSelector(level="high").check(dropped)
    KeysSelector().check(dropped)


def test_refuses_heads_that_the_model_does_not_have():
    for head in ((4, 0), (0, 8)):
        with pytest.raises(
            ValueError,
            match=rf"heads: \[{head[0]}, {head[1]}\] is beyond this model, which has 4 layers of 8",
        ):
            KeysSelector((head,)).check_shape(model_of("qwen2_5_vl").shape)
