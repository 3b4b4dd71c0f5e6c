"""What each selector looks at, and what it must not look at."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import x2l.selectors
from tests.tiny import frames, ours, stock
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.assignment import select
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.selectors.attention import AttentionSelector
from x2l.selectors.base import ChunkSelector, IndexingSelector, Query
from x2l.selectors.context_attention import attention_to
from x2l.selectors.controls import (
    FirstLastSelector,
    LastSelector,
    MatchedRandomSelector,
    RandomSelector,
    SelectAll,
    SelectNone,
    UniformSelector,
)
from x2l.selectors.embedding import EmbeddingSelector
from x2l.selectors.flexmem import FlexMemSelector
from x2l.selectors.from_file import FileSelector
from x2l.selectors.keys import KeysSelector
from x2l.selectors.mem_index import MemIndexSelector
from x2l.selectors.oracle import HitRateSelector, OracleSelector
from x2l.selectors.probe import ProbeSelector
from x2l.selectors.quest import QuestSelector
from x2l.selectors.rekv import ReKVSelector
from x2l.selectors.retrieval_heads import RetrievalHeadsSelector
from x2l.selectors.retriever import RetrieverSelector
from x2l.selectors.roles import ROLES
from x2l.selectors.shallow_votes import ShallowVotesSelector
from x2l.selectors.yes_no import YesNoSelector

EVERY = [
    SelectAll(),
    SelectNone(),
    RandomSelector(),
    MatchedRandomSelector("attention"),
    UniformSelector(),
    FirstLastSelector(),
    LastSelector(),
    OracleSelector(),
    HitRateSelector(0.5),
    EmbeddingSelector(),
    AttentionSelector(),
    KeysSelector(),
    KeysSelector(((0, 3),)),
    KeysSelector(index="resident"),
    ReKVSelector(),
    QuestSelector(),
    RetrievalHeadsSelector(),
    FlexMemSelector(),
    MemIndexSelector(),
    ShallowVotesSelector(layers=2),
    ShallowVotesSelector(layers=2, candidates=3),
    ShallowVotesSelector(layers=2, gate=True, threshold=0.0),
    YesNoSelector(),
    ProbeSelector(),
]
ELSEWHERE = {FileSelector, RetrieverSelector}  # need files; their own tests


def concrete(kind):
    """A class and what is made of it, the abstract ones left out."""
    below = set().union(*map(concrete, kind.__subclasses__()))
    return below if inspect.isabstract(kind) else {kind} | below


def test_every_selector_of_the_package_is_walked_here():
    for module in pkgutil.iter_modules(x2l.selectors.__path__, "x2l.selectors."):
        importlib.import_module(module.name)
    package = {kind for kind in concrete(ChunkSelector) if kind.__module__.startswith("x2l.")}
    assert package == {type(selector) for selector in EVERY} | ELSEWHERE
    assert all(kind.role in ROLES for kind in package)


@pytest.fixture(scope="module")
def store():
    model = ours("qwen2_5_vl")
    levels = {"low": Level(KeyNorm(), 2), "high": Level(ToMe(), 8)}
    indexes = [MemIndexSelector().written(model.shape)]
    return prefill(model, model.prompt(frames(22), 4), levels, indexes=indexes)


def query(
    text="What is the colour of the star?",
    key="q1",
    spans=((4.0, 6.0), (9.0, 10.0)),
    prepared=None,
):
    return Query(ours("qwen2_5_vl").question(text), key, spans, prepared=prepared)


def relevance(selector, store, **changes):
    model = ours("qwen2_5_vl")
    if isinstance(selector, IndexingSelector):
        changes["prepared"] = selector.remember(store, model, Meter())
    return selector.relevance(query(**changes), store, model, Meter())


@pytest.mark.parametrize("selector", EVERY, ids=lambda s: s.name)
def test_gives_every_chunk_a_number_and_repeats_itself(selector, store):
    first, again = relevance(selector, store), relevance(selector, store)
    assert first.shape == (6,) and first.device.type == "cpu" and not first.isnan().any()
    assert torch.equal(first, again)


@pytest.mark.parametrize("selector", EVERY, ids=lambda s: s.name)
def test_only_a_bound_looks_at_the_spans(selector, store):
    """Other spans, and none at all; a bound needs them, and another answer follows from others."""
    same = [relevance(selector, store, spans=spans) for spans in (((4.0, 6.0),), ((20.0, 21.0),))]
    if selector.role == "bound":
        pytest.raises(ValueError, relevance, selector, store, spans=None)
        assert selector.name == "hit_rate" or not torch.equal(*same)
    else:
        assert torch.equal(*same) and torch.equal(same[0], relevance(selector, store, spans=None))


def test_all_and_none(store):
    assert select(relevance(SelectAll(), store), 0) == tuple(range(6))
    assert select(relevance(SelectNone(), store), 6) == ()


def test_oracle_takes_ground_truth_only(store):
    scores = relevance(OracleSelector(), store)
    assert select(scores, 6) == (1, 2)
    assert select(scores, 1) == (1,)
    with pytest.raises(ValueError, match="selector=oracle: question 'q1' has no ground-truth"):
        relevance(OracleSelector(), store, spans=None)


def test_random_depends_on_question_and_seed(store):
    base = relevance(RandomSelector(), store)
    assert not torch.equal(base, relevance(RandomSelector(), store, key="q2"))
    assert not torch.equal(base, relevance(RandomSelector(seed=1), store))


def test_first_last_goes_inwards_from_both_ends(store):
    scores = relevance(FirstLastSelector(), store)
    assert [select(scores, k) for k in (1, 2, 3, 4)] == [
        (0,),
        (0, 5),
        (0, 1, 5),
        (0, 1, 4, 5),
    ]


def test_last_takes_the_end(store):
    assert select(relevance(LastSelector(), store), 2) == (4, 5)


def test_matched_random_draws_what_random_draws(store):
    """Only how many it takes differs, so the two can be compared draw by draw."""
    same = relevance(MatchedRandomSelector("oracle", seed=3), store)
    assert torch.equal(same, relevance(RandomSelector(seed=3), store))


def hits(store, rate, miss="none", questions=300):
    selector = HitRateSelector(rate, miss)
    return [select(relevance(selector, store, key=f"q{n}"), 2) for n in range(questions)]


def test_hit_rate_gives_the_truth_that_often_and_else_nothing(store):
    """300 questions, binomial: four standard deviations are 0.11."""
    taken = hits(store, 0.3)
    assert set(taken) == {(), (1, 2)}
    assert 0.19 < taken.count((1, 2)) / 300 < 0.41
    assert set(hits(store, 0, questions=50)) == {()}
    assert set(hits(store, 1, questions=50)) == {(1, 2)}


def test_hits_at_a_lower_rate_are_hits_at_a_higher_one(store):
    low, high = hits(store, 0.25), hits(store, 0.7)
    assert all(b == (1, 2) for a, b in zip(low, high, strict=True) if a == (1, 2))
    assert high.count((1, 2)) > low.count((1, 2))


def test_a_miss_can_reload_as_many_other_chunks(store):
    taken = hits(store, 0.5, "random", questions=100)
    missed = [chunks for chunks in taken if chunks != (1, 2)]
    assert missed and all(len(c) == 2 and not {1, 2} & set(c) for c in missed)
    assert len(set(missed)) > 1
    assert len(missed) == hits(store, 0.5, questions=100).count(())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5,), r"selector\.hit_rate\.rate=1\.5: must be 0 to 1"),
        ((0.5, "other"), r"selector\.hit_rate\.miss='other': must be one of"),
    ],
)
def test_hit_rate_refuses_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        HitRateSelector(*arguments)


def test_hit_rate_needs_the_truth(store):
    with pytest.raises(ValueError, match="selector=hit_rate: question 'q1' has no ground-truth"):
        relevance(HitRateSelector(0.5), store, spans=None)


def test_uniform_spreads_and_nests(store):
    scores = relevance(UniformSelector(), store)
    assert select(scores, 1) == (4,)
    assert select(scores, 2) == (2, 4)
    assert set(select(scores, 3)) > {2, 4}


def test_embedding_equals_the_official_formula(store):
    """Mean over question tokens and over a time step's visual tokens, maximum over the chunk's steps."""
    model = ours("qwen2_5_vl")
    prompt, question = model.prompt(frames(22), 4), query().question
    words = stock("qwen2_5_vl").get_input_embeddings()(question.input_ids).detach()
    want = []
    for chunk in prompt.chunks:
        visual = model.embed_chunk(prompt, chunk).embeds[0]
        products = (words @ visual.T).mean(dim=0).view(chunk.grid[0], -1).mean(dim=1)
        want.append(float(products.max()))
    assert relevance(EmbeddingSelector(), store).tolist() == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_attention_equals_eager_attention_over_the_high_cache(store):
    """The captured attention, bias of merged KVs included, equals softmax done by hand on explicitly repeated KVs."""
    model, asked = ours("qwen2_5_vl"), query()
    got = relevance(AttentionSelector(), store)
    assert 0 < got.sum() < 1  # the rest goes to the prefix and the question itself
    mixed = store.mix(["high"] * 6)
    weights = mixed.kv.layers[0].weights
    assert (weights > 1).any(), "the test needs merged KVs"
    # Layer 0's queries do not depend on attention, so they can be computed alone.
    decoder = stock("qwen2_5_vl").get_decoder()
    hidden = decoder.layers[0].input_layernorm(model.embed_text(asked.question.input_ids).embeds)
    attention = decoder.layers[0].self_attn
    tokens = hidden.shape[1]
    positions = (torch.arange(tokens) + mixed.place.next_position).expand(3, -1)[:, None]
    cos, sin = decoder.rotary_emb(hidden, positions)
    split = lambda x: x.view(1, tokens, -1, 8).transpose(1, 2)  # noqa: E731
    queries = model.rotary._turn(split(attention.q_proj(hidden)), cos, sin)
    keys = torch.cat(
        [
            model.rotate(mixed.kv.layers[0]),
            model.rotary._turn(split(attention.k_proj(hidden)), cos, sin),
        ],
        dim=2,
    )
    logits = queries @ keys.repeat_interleave(4, dim=1).transpose(2, 3) * 8**-0.5
    cached = mixed.kv.tokens[0]
    logits[..., :cached] += weights.log().expand(2, -1).repeat_interleave(4, dim=0)[:, None]
    logits[..., cached:] += torch.full((tokens, tokens), float("-inf")).triu(1)
    want = logits.softmax(-1).mean(dim=(0, 1, 2))

    (layer,) = attention_to(asked.question, store, model, Meter(), ["high"] * 6, (0,))
    assert torch.allclose(layer.paid.mean(dim=(0, 1)), want[:cached], atol=1e-6)
    assert layer.by_chunk().shape == (8, tokens, 6)


def test_attention_leaves_store_and_model_alone(store):
    model = ours("qwen2_5_vl")
    before = [layer.keys.clone() for kv in store.levels["high"] for layer in kv.layers]
    relevance(AttentionSelector(), store)
    after = [layer.keys for kv in store.levels["high"] for layer in kv.layers]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not model.decoder._forward_pre_hooks
