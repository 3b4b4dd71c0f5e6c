"""A question that is run only as far as it is needed."""

import pytest
import torch

from tests.engine.test_flops import counter
from tests.selectors.stores import PROMPT, QUESTION, model_of, query_of, store_of, watched
from tests.tiny import FAMILIES
from x2l.engine.meter import Meter
from x2l.selectors.question_pass import rated_tokens, run_question, without_content


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_are_those_of_the_whole_run(family):
    model, store, question = model_of(family), store_of(family), query_of(family).question
    _, capture = watched(family, store, ["high"] * 4, question)
    everything = torch.arange(len(question.input_ids))
    for last in (0, 2):
        run = run_question(question, store, model, Meter(), last)
        assert set(run.capture.queries) == set(range(last + 1))
        place = store.place("high")
        for layer in range(last + 1):
            got = run.queries(layer, everything, place)
            assert torch.allclose(got, capture.queries[layer][0], atol=1e-12)
            plain = model.unrotate(capture.queries[layer], run.positions)[0]
            assert torch.allclose(run.queries(layer, everything, None), plain, atol=1e-12)


@pytest.mark.parametrize("last", [0, 3])
def test_operations_match_the_counter(last):
    model, store = model_of("qwen2_5_vl"), store_of("qwen2_5_vl")
    meter = Meter()
    with counter() as counted:
        run_question(query_of("qwen2_5_vl").question, store, model, meter, last)
    assert meter.flops["selection"] == pytest.approx(counted.get_total_flops(), rel=1e-3)


def test_a_run_that_was_ended_early_leaves_no_trace():
    model, store, question = (
        model_of("qwen2_5_vl"),
        store_of("qwen2_5_vl"),
        query_of("qwen2_5_vl").question,
    )
    _, before = watched("qwen2_5_vl", store, ["low"] * 4, question)
    run_question(question, store, model, Meter(), 1)
    _, after = watched("qwen2_5_vl", store, ["low"] * 4, question)
    assert all(torch.equal(before.queries[i], after.queries[i]) for i in range(4))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_the_questions_words(family):
    query = query_of(family)
    tokens = rated_tokens(query, "question")
    said = model_of(family).decode_text(query.question.input_ids[tokens].tolist())
    assert said == QUESTION
    assert len(rated_tokens(query, "all")) == len(query.question.input_ids)


def test_words_that_are_not_there_are_said():
    with pytest.raises(ValueError, match="holds no token of 'Where'; let the selector look at all"):
        query_of("qwen2_5_vl").question.tokens_of("Where")


def test_a_question_without_content_keeps_its_options():
    null = without_content(query_of("qwen2_5_vl"), "N/A", model_of("qwen2_5_vl"))
    assert null.question.text == PROMPT.replace(QUESTION, "N/A") and null.text == "N/A"
    assert (
        model_of("qwen2_5_vl").decode_text(
            null.question.input_ids[rated_tokens(null, "question")].tolist()
        )
        == "N/A"
    )
