"""MemIndex: keys that a pre-fill writes, and attention to them, against a softmax for every head and token."""

from dataclasses import replace

import pytest
import torch

from tests.selectors.stores import QUESTION, model_of, query_of, watched
from tests.tiny import frames
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.summary_tokens import SummaryTokens
from x2l.engine.attended_keys import BLOCK, AttendedKeys, attention_received, received_flops
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.meter import Meter
from x2l.engine.prefill import check_prefill, prefill
from x2l.evaluation.session import open_session
from x2l.kv import concat
from x2l.models.attention import AttentionCapture
from x2l.selectors.mem_index import MemIndexSelector
from x2l.video import Frames

INDEX = AttendedKeys((1, 3), 5)
LEVELS = {"low": Level(KeyNorm(), 1), "high": Level(ToMe(), 8)}


def written(family, context="full", index=INDEX):
    model, meter = model_of(family), Meter()
    prompt = model.prompt(frames(14), 4)
    store = prefill(model, prompt, LEVELS, context, "keep", meter, indexes=[index])
    return prompt, store, store.indexes[index], meter


def most_attended(family, prompt, store, context, chunk, layer):
    """The chunk is run again behind what it attended to; softmax by softmax. Indices of its 5 tokens."""
    model, level = model_of(family), "low" if context == "full" else context
    before = concat([store.prefix, *store.levels[level][: chunk.index]])
    capture = AttentionCapture(want_keys=True)
    span = model.embed_chunk(prompt, chunk)
    model.prefill_span(span, chunk.positions, model.load_cache(before), capture)
    queries, keys = capture.queries[layer][0], capture.keys[layer][0]
    cached, weights = before.tokens[layer], before.layers[layer].weights
    received = torch.zeros(chunk.tokens, dtype=torch.float64)
    for head, of_head in enumerate(queries):
        own = head // (len(queries) // len(keys))
        for token, query in enumerate(of_head):
            logits = keys[own, : cached + token + 1] @ query * capture.scaling[layer]
            logits[:cached] += weights[own % len(weights)].log()
            received[: token + 1] += logits.softmax(dim=0)[cached:]
    received[~chunk.is_visual] = -1
    return received.argsort(descending=True)[:5].sort().values


@pytest.mark.parametrize(
    ("family", "context"), [("qwen2_5_vl", "full"), ("qwen3_vl", "high"), ("internvl", "low")]
)
def test_the_pre_fill_writes_what_each_chunk_attends_to_most(family, context):
    prompt, store, kept, _ = written(family, context)
    assert (
        kept.counts == (5,) * 4 and kept.nbytes == 2 * 20 * 2 * model_of(family).shape.head_dim * 8
    )
    for layer, keys in zip((1, 3), kept.keys, strict=True):
        for chunk in prompt.chunks:
            at = most_attended(family, prompt, store, context, chunk, layer)
            whole = store.levels["low"][chunk.index].layers[layer].keys[0]
            got = keys[:, 5 * chunk.index : 5 * chunk.index + 5]
            assert torch.allclose(got, whole[:, at], atol=1e-12)


def test_blocks_change_nothing_and_are_counted():
    generator = torch.Generator().manual_seed(0)
    tokens = BLOCK + 40
    queries = torch.randn(1, 4, tokens, 8, generator=generator, dtype=torch.float64)
    keys = torch.randn(1, 2, 30 + tokens, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    logits = (queries @ keys.repeat_interleave(2, dim=1).mT)[0] * 0.3
    logits[:, :, :30] += bias.repeat_interleave(2, dim=0)[:, None]
    logits += torch.full((tokens, 30 + tokens), float("-inf")).triu(31)
    want = logits.softmax(dim=-1)[..., 30:].sum(dim=1).mean(dim=0)
    assert torch.allclose(attention_received(queries, keys, 0.3, bias), want, atol=1e-12)
    pairs = BLOCK * (30 + BLOCK) + 40 * (30 + tokens)
    assert received_flops(4, 8, tokens, 30) == 2 * 4 * 8 * pairs


@pytest.mark.parametrize("tokens", ["all", "question"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_relevance_is_attention_within_the_prefix_and_a_chunks_keys(family, tokens):
    model, (_, store, kept, _) = model_of(family), written(family)
    selector, meter = MemIndexSelector((1, 3), tokens=tokens), Meter()
    query = query_of(family, prepared=kept)
    of_words = query.question.tokens_of(QUESTION)
    last = len(query.question.input_ids) - 1 if tokens == "all" else int(of_words[-1])
    mixed, capture = watched(family, store, ["high"] * 4, query.question)
    start, want = store.prompt.prefix, torch.zeros(4, dtype=torch.float64)
    for layer, keys in zip((1, 3), kept.keys, strict=True):
        stood = torch.full((model.axes, 1), mixed.place.next_position + last)
        plain = model.unrotate(capture.queries[layer][:, :, last : last + 1], stood)
        stands = torch.full((model.axes, 1), start + 5 + last)
        turned = model.apply_rope(plain, stands)[0, :, 0]
        behind = (torch.arange(5) + start).expand(model.axes, -1)
        for chunk in range(4):
            own = model.apply_rope(keys[None, :, 5 * chunk : 5 * chunk + 5], behind)[0]
            for head, vector in enumerate(turned):
                before = model.rotate(store.prefix.layers[layer])[0, head // 4]
                logits = torch.cat([before, own[head // 4]]) @ vector * model.scaling
                want[chunk] += logits.softmax(dim=0)[-5:].sum() / 8
    got = selector.relevance(query, store, model, meter)
    assert torch.allclose(got, want, atol=1e-9) and got.std() > 1e-4
    assert meter.streamed_bytes == 0 and meter.flops["selection"] > 0


def test_what_writing_it_took_is_the_selectors_and_not_the_pre_fills():
    _, store, kept, meter = written("qwen2_5_vl")
    plain = Meter()
    model = model_of("qwen2_5_vl")
    bare = prefill(model, model.prompt(frames(14), 4), LEVELS, "full", "keep", plain)
    assert (
        plain.flops == meter.flops and meter.seconds["retrieval"] > 0 == plain.seconds["retrieval"]
    )
    assert bare.indexes == {}
    mine = Meter()
    assert MemIndexSelector((1, 3)).remember(store, model, mine) is kept
    cached = [
        store.prefix.tokens[0] + sum(c.tokens for c in store.prompt.chunks[:i]) for i in range(4)
    ]
    want = 2 * sum(
        received_flops(8, 8, chunk.tokens, before)
        for chunk, before in zip(store.prompt.chunks, cached, strict=True)
    )
    assert mine.flops["retrieval"] == want and mine.seconds["retrieval"] == kept.seconds > 0
    with pytest.raises(ValueError, match="mem_index: the pre-fill wrote no index for it; name it"):
        MemIndexSelector((1, 3)).remember(bare, model, Meter())


def test_a_kept_pre_fill_has_the_index_and_one_without_is_another(tmp_path):
    model, seen = model_of("qwen2_5_vl"), frames(14)
    video = Frames(seen.pixels, seen.seconds, seen.fps, seen.duration, "v.mp4", "pyav")

    def opened(selectors):
        cache = PrefillCache(tmp_path, 1, LEVELS)
        prompt = model.prompt(video, 4)
        session = open_session(model, video, prompt, LEVELS, "full", "keep", 0, selectors, cache)
        return session, cache

    three, one = MemIndexSelector((1, 3)), MemIndexSelector((3,), keys=2)
    first, cache = opened({"a": three, "b": one})
    assert (cache.files.loaded, cache.files.made) == (0, 1)
    again, cache = opened({"b": one, "a": three})
    assert (cache.files.loaded, cache.files.made) == (1, 0)
    _, cache = opened({"a": three})
    assert (cache.files.loaded, cache.files.made) == (0, 1)
    for name in ("a", "b"):
        old, new = first.prepared[name], again.prepared[name]
        assert new.features.nbytes == old.features.nbytes > 0
        assert new.meter.flops == old.meter.flops
        assert all(map(torch.equal, new.features.keys, old.features.keys))
        ratings = [
            s.rate(name, three if name == "a" else one, query_of("qwen2_5_vl"))
            for s in (first, again)
        ]
        assert torch.equal(*(rating.relevance for rating in ratings))


def test_summary_tokens_leave_no_keys_of_chunks_to_write():
    levels = {name: Level(SummaryTokens(), ratio) for name, ratio in (("low", 2), ("high", 8))}
    check_prefill(levels, "own", "compact")
    with pytest.raises(ValueError, match="of summary tokens, beside which a pre-fill writes no"):
        check_prefill(levels, "own", "compact", [INDEX])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, r"mem_index\.layers=\[\]: must be null .* or a list of layers"),
        ({"layers": "14"}, r"mem_index\.layers=14: must be null"),
        ({"layers": 14}, r"mem_index\.layers=14: must be null"),
        ({"layers": 0.5}, r"mem_index\.layers=0\.5: must be null"),
        ({"layers": {"a": 1}}, r"mem_index\.layers=.*: must be null"),
        ({"layers": [True]}, r"mem_index\.layers=\[True\]: must be null"),
        ({"layers": [1, -2]}, r"mem_index\.layers=\[1, -2\]: must be null"),
        ({"keys": 0}, r"mem_index\.keys=0: must be a whole number of at least 1"),
        ({"first_layer": -1}, r"mem_index\.first_layer=-1: must be a whole number of at least 0"),
        ({"tokens": "some"}, r"mem_index\.tokens='some': must be one of question, all"),
    ],
)
def test_refuses_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        MemIndexSelector.load(**settings)


def test_refuses_layers_that_the_model_does_not_have_and_an_index_not_made():
    shape = replace(model_of("qwen2_5_vl").shape, layers=4)
    MemIndexSelector.load([3, 0]).check_shape(shape)
    for selector, message in (
        (MemIndexSelector.load([0, 4]), "layers: 4 is beyond this model, which has 4 layers"),
        (MemIndexSelector(first_layer=4), "first_layer: 4 is beyond this model"),
    ):
        with pytest.raises(ValueError, match=rf"selector\.mem_index\.{message}"):
            selector.check_shape(shape)
    _, store, _, _ = written("qwen2_5_vl")
    with pytest.raises(ValueError, match="mem_index: keeps an index of the video, which was not"):
        MemIndexSelector().relevance(query_of("qwen2_5_vl"), store, model_of("qwen2_5_vl"), Meter())
