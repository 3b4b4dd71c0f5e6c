"""Mean keys and bounds of pages, against loops over the keys that attention would see."""

from dataclasses import replace

import pytest
import torch

from tests.selectors.stores import model_of, query_of, store_of, watched
from x2l.engine.meter import Meter
from x2l.selectors.head_keys import combined
from x2l.selectors.quest import QuestSelector
from x2l.selectors.rekv import ReKVSelector

FAMILIES = ["qwen2_5_vl", "qwen3_vl", "internvl"]


def asked(family, store, layer, rope):
    """Queries `(Q, n, D)` and, for each chunk, its keys `(H, T, D)`; of the whole run."""
    model, question = model_of(family), query_of(family).question
    mixed, watch = watched(family, store, ["high"] * 4, question)
    low = store.mix(["low"] * 4)
    queries, keys = watch.queries[layer], model.rotate(low.kv.layers[layer])
    if not rope:
        count = torch.arange(len(question.input_ids)) + mixed.place.next_position
        queries = model.unrotate(queries, count.expand(model.axes, -1))
        keys = low.kv.layers[layer].keys
    return queries[0], [keys[0, :, start:stop] for start, stop in low.spans[layer]]


@pytest.mark.parametrize("family", FAMILIES)
def test_rekv_is_the_product_of_concatenated_means(family):
    """ReKV's own form: heads concatenated, KV heads repeated to query heads, mean over layers."""
    store, model = store_of(family), model_of(family)
    want = torch.zeros(4, dtype=torch.float64)
    for layer in range(4):
        queries, chunks = asked(family, store, layer, rope=False)
        mean_query = queries.mean(dim=1).flatten()
        for index, keys in enumerate(chunks):
            repeated = keys.mean(dim=1).repeat_interleave(4, dim=0).flatten()
            want[index] += mean_query @ repeated
    got = ReKVSelector(index="host").relevance(query_of(family), store, model, Meter())
    assert torch.allclose(got, want * model.scaling / (8 * 4), atol=1e-9)


def test_rekv_with_scales_of_its_own():
    store, model, rows = store_of("qwen2_5_vl"), model_of("qwen2_5_vl"), []
    for layer in range(4):
        queries, chunks = asked("qwen2_5_vl", store, layer, rope=False)
        for head, query in enumerate(queries):
            rows.append(
                torch.stack([query @ keys[head // 4].mean(dim=0) for keys in chunks], dim=-1)
            )
    want = combined(torch.stack(rows), "z_max")
    got = ReKVSelector(index="host", combine="z_max").relevance(
        query_of("qwen2_5_vl"), store, model, Meter()
    )
    assert torch.allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("page", [3, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_quest_bounds_every_product(family, page):
    store, model = store_of(family), model_of(family)
    want, most = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for layer in (2, 3):
        queries, chunks = asked(family, store, layer, rope=True)
        for index, keys in enumerate(chunks):
            for head, of_head in enumerate(queries):
                own = keys[head // 4]
                for query in of_head:
                    bounds = [
                        float(torch.maximum(query * p.amin(0), query * p.amax(0)).sum())
                        for p in own.split(page)
                    ]
                    want[index] += max(bounds)
                    most[index] += float((own @ query).amax())
    got = QuestSelector(index="host", page=page).relevance(query_of(family), store, model, Meter())
    scale = model.scaling / (2 * 8 * len(query_of(family).question.input_ids))
    assert torch.allclose(got, want * scale, atol=1e-9)
    assert bool((got >= most * scale - 1e-9).all())


@pytest.mark.parametrize(
    "selector", [ReKVSelector(dtype="float32"), QuestSelector(dtype="float32", page=4)]
)
def test_what_is_kept_is_smaller_than_the_keys(selector):
    store, model = store_of("qwen2_5_vl"), model_of("qwen2_5_vl")
    index, meter = selector.remember(store, model, Meter()), Meter()
    query = query_of("qwen2_5_vl", prepared=index)
    got = selector.relevance(query, store, model, meter)
    anew = type(selector)(index="host", **({} if selector.name == "rekv" else {"page": 4}))
    want = anew.relevance(query_of("qwen2_5_vl"), store, model, Meter())
    assert torch.allclose(got, want, atol=1e-5) and meter.streamed_bytes == 0
    vectors = 4 * 2 * 4 * 8 * 4  # layers, KV heads, chunks, channels, bytes
    pages = [-(-kv.layers[0].tokens // 4) for kv in store.levels["low"]]
    assert index.nbytes == (vectors if selector.name == "rekv" else 2 * 2 * sum(pages) * 2 * 8 * 4)


def test_an_index_that_was_not_made_is_said():
    with pytest.raises(
        ValueError,
        match="selector rekv: keeps an index of the video, which was not made; name it at",
    ):
        ReKVSelector().relevance(
            query_of("qwen2_5_vl"), store_of("qwen2_5_vl"), model_of("qwen2_5_vl"), Meter()
        )


def test_refuses_pages_of_nothing_and_layers_that_are_not_there():
    with pytest.raises(
        ValueError, match=r"selector\.quest\.page=0: must be a whole number of at least 1"
    ):
        QuestSelector(page=0)
    shape = replace(model_of("qwen2_5_vl").shape, layers=2)
    with pytest.raises(
        ValueError,
        match="selector=quest: looks at layers from 2 on, .* the model has only 2",
    ):
        QuestSelector().check_shape(shape)
