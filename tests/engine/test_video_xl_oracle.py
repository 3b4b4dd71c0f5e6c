"""Every case that the official code of Video-X2L computed, through load, prefill, mix and answer."""

from contextlib import nullcontext

import pytest
import torch

from tests.video_xl import (
    CASES,
    checkpoint,
    differences,
    inputs,
    loaded,
    logits_after,
    official_store,
    recorded,
)
from x2l.engine import prefill as engine_prefill
from x2l.engine import prefill_pass
from x2l.engine.summarising_pass import SummarisingPass
from x2l.models import huggingface
from x2l.models.positions import Cursor

EDGES = "paper_2_32_first_last"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("video_xl"))


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 5e-5), ("float64", 1e-6)])
@pytest.mark.parametrize("case", CASES)
def test_kvs_logits_and_tokens_are_the_official_ones(case, dtype, limit, folder):
    found = differences(loaded(folder, dtype), case)
    assert max(found.kvs, found.logits) <= limit and found.same_tokens, found


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
    """Kept KVs stand where the window had them, so that the next chunk starts behind tokens that are gone."""
    kept = positions.shape[2]
    numbers = cursor.position + torch.arange(kept).expand_as(positions) * chunk.tokens / kept
    return numbers, Cursor(cursor.position + chunk.tokens)


WRONG = ("projection", "embedding", "gap", "edges", "pinned", "context")


@pytest.mark.parametrize("wrong", ["nothing", *WRONG])
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
    if wrong in ("edges", "pinned"):
        edges = False
    if wrong == "context":
        monkeypatch.setattr(engine_prefill, "SummarisingPass", OverLow)
    store, selected = official_store(model, EDGES, edges), CASES[EDGES]["selected"]["mixed"]
    if wrong == "pinned":  # as many KVs of the same chunks, but the H pass never saw the ends at 2x
        selected = [0, *selected, 3]
    found = logits_after(model, store, selected, inputs()["question_ids"])
    row = recorded(EDGES, torch.float32)["logits.mixed.question"][-1]
    difference = float((found - row).abs().max())
    assert difference < 5e-5 if wrong == "nothing" else difference > 0.1
