"""Every case that the official code of Video-X2L computed, through load, prefill, mix and answer."""

from contextlib import nullcontext

import pytest
import torch

from tests.video_xl import CASES, checkpoint, inputs, loaded, official_prompt, recorded
from x2l.compressors.base import Level
from x2l.compressors.summary_tokens import SummaryTokens
from x2l.engine import prefill as engine_prefill
from x2l.engine import prefill_pass
from x2l.engine.decode import answer, ask
from x2l.engine.prefill import prefill
from x2l.engine.summarising_pass import SummarisingPass
from x2l.models import huggingface
from x2l.models.positions import Cursor
from x2l.models.prompt import Question

LIMITS = {torch.float32: 5e-5, torch.float64: 1e-6}
EDGES = "paper_2_32_first_last"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("video_xl"))


def store_of(model, case, edges=None):
    about = CASES[case]
    rule = SummaryTokens(2 if (about["first_last"] if edges is None else edges) else None)
    levels = {"low": Level(rule, about["low"]), "high": Level(rule, about["high"])}
    return prefill(model, official_prompt(model, about["frames"]), levels, "own", "compact")


def logits(model, store, selected, ids):
    """After the last of `ids`, `(vocabulary,)`."""
    mixed = store.mix(store.reloading(selected))
    question = Question("", ids, torch.zeros(len(ids), 2))
    return ask(model, model.load_cache(mixed.kv), question, mixed.place)


def assert_near(ours, official):
    assert ours.shape == official.shape and ours.dtype == official.dtype
    assert (ours - official).abs().max() <= LIMITS[official.dtype]


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kvs_logits_and_tokens_are_the_official_ones(case, dtype, folder):
    model, about = loaded(folder, str(dtype).removeprefix("torch.")), CASES[case]
    store, official = store_of(model, case), recorded(case, dtype)
    layers = range(3) if dtype == torch.float32 else [2]  # in float64 the last one was recorded
    parts = {"sink": store.prefix}
    for level, chunks in store.levels.items():
        parts |= {f"{level}.{index}": kv.decode() for index, kv in enumerate(chunks)}
    for name, kv in parts.items():
        assert_near(torch.cat([kv.layers[i].keys for i in layers]), official[f"{name}.k"])
        assert_near(torch.cat([kv.layers[i].values for i in layers]), official[f"{name}.v"])
    ids = inputs()["question_ids"]
    for label, selected in about["selected"].items():
        generated, rows = official[f"tokens.{label}"], official[f"logits.{label}.generated"]
        question = Question("", ids, torch.zeros(len(ids), 2))
        said = answer(model, store, question, store.reloading(selected), 5)
        assert said.token_ids == tuple(generated.tolist())
        assert (said.first_logits - rows[0]).abs().max() <= LIMITS[torch.float32]
        for step in range(5):
            assert_near(
                logits(model, store, selected, torch.cat([ids, generated[:step]])), rows[step]
            )
        if dtype == torch.float32:
            for token, row in enumerate(official[f"logits.{label}.question"]):
                assert_near(logits(model, store, selected, ids[: token + 1]), row)


class OverLow(SummarisingPass):
    """Leaves L-KVs in sight, at every level."""

    finest = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        OverLow.finest = self if self.name == "low" else OverLow.finest

    def leave(self, kv, chunk, compact):
        if self.name != "low":
            kv = OverLow.finest.stored["low"][chunk.index].decode()
        super().leave(kv, chunk, compact)


def gapped(prompt, chunk, positions, cursor):
    """Kept KVs stay where the window had them, so that the next chunk starts behind raw tokens that are gone."""
    kept = positions.shape[2]
    numbers = cursor.position + torch.arange(kept).expand_as(positions) * chunk.tokens / kept
    return numbers, Cursor(cursor.position + chunk.tokens)


@pytest.mark.parametrize("wrong", ["nothing", "projection", "embedding", "gap", "edges", "context"])
def test_wrong_variants_are_told_from_the_official_code(wrong, folder, monkeypatch):
    model, edges = loaded(folder, "float32"), None
    if wrong == "projection":
        monkeypatch.setattr(huggingface, "summarising", lambda is_summary: nullcontext())
    if wrong == "embedding":
        last = model.hf.get_input_embeddings().weight.data[
            -1:
        ]  # the official code's where none fits
        monkeypatch.setattr(model.hf.model.summary_embedding.weight, "data", last.clone())
    if wrong == "gap":
        monkeypatch.setattr(prefill_pass, "compacted", gapped)
    if wrong == "edges":
        edges = False
    if wrong == "context":
        monkeypatch.setattr(engine_prefill, "SummarisingPass", OverLow)
    store, official = store_of(model, EDGES, edges), recorded(EDGES, torch.float32)
    row = official["logits.mixed.question"][-1]
    found = logits(model, store, CASES[EDGES]["selected"]["mixed"], inputs()["question_ids"])
    difference = float((found - row).abs().max())
    assert difference < 5e-5 if wrong == "nothing" else difference > 0.1
