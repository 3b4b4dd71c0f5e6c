"""What does not fit the model's context or the memory is one line, in the library, in `x2l` and in `x2l-ask`."""

import json
import re
from dataclasses import replace

import pytest
import torch

from tests.clips import Clips
from tests.evaluation.test_runner import go
from tests.tiny import frames
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.engine import context_length as limits
from x2l.engine.context_length import ContextError
from x2l.engine.decode import answer
from x2l.engine.prefill import prefill
from x2l.evaluation import session
from x2l.models.loading import load
from x2l.selectors.controls import SelectNone

LEVELS = {"low": Level(ToMe(), 2), "high": Level(ToMe(), 8)}


@pytest.fixture(scope="module")
def model():
    return load("x2l_tiny")


@pytest.fixture
def context_of(monkeypatch, model):
    """Sets the number of positions that the model was made for."""

    def change(length):
        monkeypatch.setattr(model, "shape", replace(model.shape, context_length=length))

    return change


@pytest.mark.parametrize(("tokens", "end"), [(101, 0), (0, 101)])
def test_tokens_and_positions_both_count(tokens, end):
    limits.check_context(None, tokens, end, "it", "less")
    limits.check_context(101, tokens, end, "it", "less")
    with pytest.raises(ContextError, match="^it need 101 positions, but .* 100; less$"):
        limits.check_context(100, tokens, end, "it", "less")


def test_a_video_fits_to_the_token(model, context_of):
    prompt = model.prompt(frames(16), 8)
    context_of(prompt.tokens)
    prefill(model, prompt, LEVELS)
    context_of(prompt.tokens - 1)
    told = rf"its {prompt.tokens} tokens need {prompt.tokens} positions.*fewer frames \(video.frames=\)"
    with pytest.raises(ContextError, match=told):
        prefill(model, prompt, LEVELS)


def test_a_compressed_context_holds_more(model, context_of):
    """Two chunks of 64 tokens: the second sees 8 of the first."""
    prompt = model.prompt(frames(16), 8)
    context_of(prompt.prefix + 8 + 64)
    with pytest.raises(ContextError):
        prefill(model, prompt, LEVELS, "full", "compact")
    prefill(model, prompt, LEVELS, "high", "compact")
    context_of(prompt.prefix + 8 + 63)
    with pytest.raises(ContextError):
        prefill(model, prompt, LEVELS, "high", "compact")


def test_few_frames_may_stand_for_more_positions_than_tokens(model, context_of):
    video = frames(16)
    slow = replace(video, seconds=100 * video.seconds)  # a position a second: 1500
    prompt = model.prompt(slow, 8)
    context_of(None)
    kept, moved = (prefill(model, prompt, LEVELS, "high", rule) for rule in ("keep", "compact"))
    context_of(900)  # a chunk of 750 positions, behind what is left of the one before
    with pytest.raises(ContextError, match="need 1,[45]"):
        prefill(model, prompt, LEVELS, "high", "keep")
    prefill(model, prompt, LEVELS, "high", "compact")
    question = model.question("What?")
    with pytest.raises(ContextError, match="need 1,[45]"):
        answer(model, kept, question, kept.reloading(()), 5)
    answer(model, moved, question, moved.reloading(()), 5)


def test_a_question_fits_to_the_token(model, context_of):
    store = prefill(model, model.prompt(frames(16), 8), LEVELS)
    question = model.question("What is the colour of the square?")
    cached = store.prefix.tokens[0] + 2 * 32
    needed = cached + len(question.input_ids) + 5
    context_of(needed)
    answer(model, store, question, store.reloading((0, 1)), 5)
    told = rf"its {len(question.input_ids)} tokens, 6 to answer with .* {cached} KVs.* need {needed + 1} positions"
    with pytest.raises(ContextError, match=told):
        answer(model, store, question, store.reloading((0, 1)), 6)
    context_of(needed - 1)
    answer(
        model, store, question, store.reloading((0,)), 5
    )  # fewer re-loaded chunks leave more room
    with pytest.raises(ContextError):
        answer(model, store, question, store.reloading((0, 1)), 5)


def errors_of(folder, tmp_path, model):
    """Runs three questions about each of two clips; what errors.jsonl says."""
    summary = go(folder, tmp_path, lambda: model, {"none": SelectNone()}, Clips(str(tmp_path)))
    lines = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
    assert len(summary.errors) == len(lines)
    assert json.loads((folder / "status.json").read_text())["state"] == "done-with-errors"
    return summary, [line["error"] for line in lines]


def test_a_run_leaves_out_videos_that_are_too_long_and_says_so(tmp_path, model, context_of):
    context_of(100)
    summary, told = errors_of(tmp_path / "run", tmp_path, model)
    assert summary.records == () and len(told) == 2
    assert all(re.match(r"ContextError: video: its \d+ tokens need \d+ positions", t) for t in told)


def test_a_run_goes_on_past_a_video_that_takes_too_much_memory(tmp_path, model, monkeypatch):
    real = session.prefill
    calls = []

    def first_takes_too_much(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            torch.empty(1 << 60)  # the allocator's own error
        return real(*arguments, **named)

    monkeypatch.setattr(session, "prefill", first_takes_too_much)
    summary = go(
        tmp_path / "run", tmp_path, lambda: model, {"none": SelectNone()}, Clips(str(tmp_path))
    )
    assert {record.video.video_id for record in summary.records} == {"clip1"}
    assert summary.errors == () and len(summary.out_of_memory) == 3
    (told,) = {failure.error for failure in summary.out_of_memory}
    assert told.startswith("out of memory: pre-fill of ")
    assert "clip0.mp4" in told and "video.frames=8" in told and "model.dtype=bfloat16" in told
