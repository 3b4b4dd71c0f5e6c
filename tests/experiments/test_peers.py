"""The comparison with stock transformers and kvpress, at a size that takes seconds."""

import sys
from argparse import Namespace

import pytest
import torch

from experiments.speed.one_shot import decoded, prefilled, press_of
from experiments.speed.peers import (
    KEYS,
    PEER_OF,
    WAYS,
    TextModel,
    measure,
    prompt_of,
    table,
    text_model,
)
from experiments.speed.prefill import build

GIVEN = Namespace(layers=2, hidden=64, ratio=16, new_tokens=4)
TOKENS = 1024
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident size is read from /proc")


@pytest.fixture(scope="module")
def stock():
    model = TextModel(*build(GIVEN.layers, GIVEN.hidden, "cpu"))
    prompt = prompt_of(model, TOKENS, model.hf.config.text_config.vocab_size)
    ids = prompt.input_ids[None], model.question("What?").input_ids[None]
    return text_model(model.hf).eval(), *ids


def test_x2l_at_ratio_1_decodes_the_tokens_of_stock(stock):
    model, prompt, question = stock
    assert len(set(prompt[0, -TOKENS:].tolist())) > TOKENS / 4  # no placeholders
    cache, seconds, _ = prefilled(model, prompt, press_of(None, 1))
    tokens, each = decoded(model, cache, prompt.shape[1], question, GIVEN.new_tokens)
    ours = measure(WAYS["x2l, ratio 1"], TOKENS, GIVEN)
    assert ours["tokens"] == tokens and ours["kept"] == prompt.shape[1]
    assert min(seconds, each, ours["seconds"], ours["seconds_token"]) > 0
    other = torch.randint(0, 50, prompt.shape)
    cache, _, _ = prefilled(model, other, press_of(None, 1))
    assert decoded(model, cache, prompt.shape[1], question, GIVEN.new_tokens)[0] != tokens


@pytest.mark.parametrize(
    "name", [name for name, way in WAYS.items() if way.context and not way.plain]
)
def test_every_way_of_x2l_keeps_a_16th(stock, name):
    found = measure(WAYS[name], TOKENS, GIVEN)
    assert found["kept"] == TOKENS / 16 + stock[1].shape[1] - TOKENS
    assert len(found["tokens"]) == GIVEN.new_tokens


def test_ratios_are_against_stock_and_the_peer_of_the_same_method():
    figures = {name: dict.fromkeys(KEYS, float(i + 1)) for i, name in enumerate(WAYS)}
    rows = {
        line.split("|")[2].strip(): [cell.strip() for cell in line.split("|")[6:-1]]
        for line in table({4096: figures}).splitlines()[2:]
    }
    names = list(WAYS)
    for name, cells in rows.items():
        place = names.index(name) + 1
        assert cells[:3] == [f"{place:.2f}"] * 3
        of = WAYS[name]
        beside = (
            f"{place / (names.index(PEER_OF[of.method]) + 1):.2f}"
            if of.context and not of.plain
            else ""
        )
        assert cells[3:] == [beside] * 3
    without = {name: values for name, values in figures.items() if WAYS[name].press is None}
    assert "x2l, SnapKV" in table({4096: without})
