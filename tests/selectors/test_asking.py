"""probe and yes_no, against the logits of the stock path over caches mixed by hand."""

import pytest
import torch

from tests.selectors.stores import QUESTION, model_of, query_of, store_of
from tests.tiny import FAMILIES as TINY
from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.head_budgets import AdaKV
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import ask
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.selectors.base import RunFacts
from x2l.selectors.first_answer import first_logits, log_odds
from x2l.selectors.probe import ProbeSelector
from x2l.selectors.yes_no import YesNoSelector

FAMILIES = ["qwen2_5_vl", "qwen3_vl", "internvl"]


def first(family, store, assignment, question):
    model, mixed = model_of(family), store.mix(assignment)
    return ask(model, model.load_cache(mixed.kv), question, mixed.place)


@pytest.mark.parametrize("family", FAMILIES)
def test_probe_is_the_divergence_from_the_mean_over_chunks(family):
    store, query, meter = store_of(family), query_of(family), Meter()
    p = [
        first(
            family, store, ["low" if i == chunk else "high" for i in range(4)], query.question
        ).softmax(dim=0)
        for chunk in range(4)
    ]
    mean = sum(p) / 4
    want = [float((one * (one / mean).log()).sum()) for one in p]
    got = ProbeSelector().relevance(query, store, model_of(family), meter)
    assert got.tolist() == pytest.approx(want, abs=1e-9) and float(got.min()) >= 0
    assert meter.streamed_bytes == sum(store.nbytes("low"))
    got = ProbeSelector("confidence").relevance(query, store, model_of(family), meter)
    assert got.tolist() == pytest.approx([float(one.max()) for one in p], abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_yes_no_asks_of_one_chunk_at_a_time(family):
    store, model, meter = store_of(family), model_of(family), Meter()
    asked = model.question(
        f"{QUESTION}\nred\nblue\nDoes this part of the video help to answer the question? "
        "Answer with one word, Yes or No."
    )
    yes, no = (int(model.processor.tokenizer(word)["input_ids"][0]) for word in ("Yes", "No"))
    want = []
    for chunk in range(4):
        logits = first(family, store, ["high" if i == chunk else None for i in range(4)], asked)
        both = torch.stack([logits[yes], logits[no]]).softmax(dim=0)
        want.append(float(both[0]))
    got = YesNoSelector().relevance(query_of(family), store, model, meter)
    assert got.tolist() == pytest.approx(want, abs=1e-9)
    assert meter.streamed_bytes == 0 and meter.flops["selection"] > 0
    YesNoSelector("low").relevance(query_of(family), store, model, meter)
    assert meter.streamed_bytes == sum(store.nbytes("low"))


@pytest.mark.parametrize("family", TINY)
def test_a_batch_says_what_each_says_alone(family):
    """Rows of other lengths (a short last chunk, one that is dropped), merged KVs and ragged heads among them."""
    high = Level(AdaKV(KeyNorm()), 4) if family == "qwen2_5_vl" else Level(ToMe(), 8)
    store = store_of(family, low=Level(KeyNorm(), 2), high=high)
    question, model, meters = query_of(family).question, model_of(family), [Meter(), Meter()]
    trials = [store.reloading((chunk,)) for chunk in range(4)] + [[None, "low", None, None]]
    alone = torch.stack([first(family, store, trial, question) for trial in trials])
    one, many = (
        first_logits(question, store, model, meter, trials, batch)
        for meter, batch in zip(meters, (1, 4), strict=True)
    )
    assert torch.allclose(many, alone, atol=1e-9) and torch.allclose(one, alone, atol=1e-9)
    assert meters[0].flops == meters[1].flops and meters[0].flops["selection"] > 0
    assert meters[0].streamed_bytes == meters[1].streamed_bytes


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_relevance_is_the_same_in_batches_in_single_precision(positions):
    model = ours("qwen2_5_vl")
    levels = {"low": Level(KeyNorm(), 2), "high": Level(ToMe(), 8)}
    store = prefill(model, model.prompt(frames(14), 4), levels, positions=positions)
    for kind in (ProbeSelector, YesNoSelector):
        one, many = (
            kind(batch=batch).relevance(query_of("qwen2_5_vl"), store, model, Meter())
            for batch in (1, 3)
        )
        assert (one - many).abs().max() < 1e-5 and one.std() > 1e-4


def test_words_that_begin_alike_cannot_be_told_apart():
    model = model_of("qwen2_5_vl")
    with pytest.raises(ValueError, match="tokenizer begins 'Yes' and 'Yes' with the same token"):
        log_odds(torch.zeros(1, 1000), model, ("Yes", "Yes"))


def test_refuses_a_coarsest_level_without_keys():
    dropped = RunFacts("m", None, None, {"low": False, "high": True})
    with pytest.raises(
        ValueError,
        match=r"yes_no\.level=high: must be a level that keeps KVs; use one of low",
    ):
        YesNoSelector().check(dropped)
    YesNoSelector("low").check(dropped)
    for kind in (ProbeSelector, YesNoSelector):
        with pytest.raises(ValueError, match=r"\.batch=0: must be a whole number of at least 1"):
            kind(batch=0)
    with pytest.raises(
        ValueError, match=r"selector\.probe\.score='max': must be one of kl, confidence"
    ):
        ProbeSelector("max")
