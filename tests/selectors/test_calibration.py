"""Files of heads: what is read from them, and where they must not be used."""

import json

import pytest
import torch

from x2l.selectors.calibration import Calibration, heads_of, load_calibration, ranked
from x2l.selectors.head_scores import (
    Found,
    average_precision,
    best_count,
    key_scores,
    separation,
)
from x2l.selectors.keys import KeysSelector

OWN = {
    "format": 1,
    "model": "some/where/Tiny",
    "checkpoint": "abc",
    "layers": 2,
    "heads": 2,
    "found_on": "needle/train",
    "scores": {
        "keys": {"best": 2, "of_heads": [[0.1, 0.7], [0.7, 0.2]]},
        "attention": {"best": 1, "of_heads": [[0.0, 0.1], [0.5, 0.2]]},
    },
}
# The layout of the published files, e.g. configs/retriever/qwen3_vl_8b_instruct_8k_*_head_score.json.
PUBLISHED = {
    "args": {"model": "Qwen/Qwen3-VL-8B-Instruct", "tasks": ["mm_text", "image"], "union_top_k": 2},
    "head_score_list": [["13-29", 0.72], ["15-11", 0.64], ["21-10", 0.62]],
}


def written(folder, values):
    path = folder / "heads.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_the_best_heads_of_a_score(tmp_path):
    path = written(tmp_path, OWN)
    assert heads_of(path, "keys", "f")[0] == ((0, 1), (1, 0))  # of equal scores the earlier first
    assert heads_of(path, "attention", "f")[0] == ((1, 0),)
    assert ranked(OWN["scores"]["keys"]["of_heads"]) == ((0, 1), (1, 0), (1, 1), (0, 0))
    assert KeysSelector.load(path).heads == ((0, 1), (1, 0))
    assert heads_of(None, "keys", "f") == (None, None)
    assert heads_of([[0, 3], [0, 3], [1, 2]], "keys", "f") == (((0, 3), (1, 2)), None)


def test_a_byte_order_mark_is_no_matter(tmp_path):
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(OWN), encoding="utf-8-sig")
    assert load_calibration(path, "keys", "f").best == 2


def test_published_heads(tmp_path):
    found = load_calibration(written(tmp_path, PUBLISHED), "attention", "f")
    assert found.ranked[: found.best] == ((13, 29), (15, 11))
    found.check_run("Qwen/Qwen3-VL-8B-Instruct", None, "mlvu/dev", "f")
    found.check_run("/data/qwen3-vl-8b-instruct", "abc", "mlvu/dev", "f")
    with pytest.raises(
        ValueError,
        match="holds heads of the model Qwen/Qwen3-VL-8B-Instruct, not of x2l_tiny; find",
    ):
        found.check_run("x2l_tiny", "abc", "mlvu/dev", "f")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            ("Tiny", "abd", "needle/test"),
            "holds heads of the model some/where/Tiny, the weights differ; find those",
        ),
        (
            ("other", "abd", "needle/test"),
            "holds heads of the model some/where/Tiny, not of other; find those",
        ),
        (
            ("other", None, "needle/test"),
            "holds heads of the model some/where/Tiny, not of other; find those",
        ),
        (
            ("Tiny", "abc", "needle/train"),
            "its heads were found on needle/train, the split that is evaluated",
        ),
    ],
)
def test_heads_of_another_model_or_of_the_evaluated_split(tmp_path, run, message):
    found = load_calibration(written(tmp_path, OWN), "keys", "selector.keys.heads")
    with pytest.raises(ValueError, match=rf"selector\.keys\.heads=.*heads\.json: {message}"):
        found.check_run(*run, "selector.keys.heads")


@pytest.mark.parametrize("evaluated", ["needle/test", "mlvu/dev", None])
def test_where_heads_may_be_used(tmp_path, evaluated):
    found = load_calibration(written(tmp_path, OWN), "keys", "f")
    assert isinstance(found, Calibration)
    found.check_run("renamed", "abc", evaluated, "f")  # the same weights, whatever they are called
    found.check_run("Tiny", None, evaluated, "f")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"format": 2}', '{"format": 1, "scores": {}}', '{"head_score_list": [1]}'],
)
def test_what_is_no_calibration(tmp_path, text):
    path = tmp_path / "heads.json"
    path.write_text(text)
    with pytest.raises(
        ValueError,
        match=r"f=.*heads\.json: is no calibration of heads \(.*\); make one with x2l-cal",
    ):
        load_calibration(path, "keys", "f")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"best": 1, "of_heads": [[0.1, float("nan")], [0.7, 0.2]]}, "a score of nan: must be a"),
        ({"best": 0, "of_heads": [[0.1, 0.2], [0.7, 0.2]]}, "best=0: must be 1 to 4, its heads"),
        ({"best": 5, "of_heads": [[0.1, 0.2], [0.7, 0.2]]}, "best=5: must be 1 to 4, its heads"),
        ({"best": 1, "of_heads": []}, "best=1: must be 1 to 0, its heads"),
    ],
)
def test_scores_that_rank_nothing(tmp_path, scores, message):
    """No head, or any, would be used instead."""
    path = written(tmp_path, OWN | {"scores": {"keys": scores}})
    with pytest.raises(ValueError, match=rf"is no calibration of heads \({message}"):
        KeysSelector.load(path)


def test_published_scores_are_numbers(tmp_path):
    heads = [["13-29", float("nan")], ["15-11", 0.6]]
    with pytest.raises(ValueError, match=r"is no calibration of heads \(a score of nan"):
        load_calibration(written(tmp_path, PUBLISHED | {"head_score_list": heads}), "keys", "f")


def test_average_precision_and_separation():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.9, 0.1, 0.3, 0.5]], dtype=torch.float64)
    assert average_precision(scores, (1, 3)).tolist() == pytest.approx(
        [(1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2]
    )
    spread = scores[0].std(correction=0)
    assert float(separation(scores, (1,))[0]) == pytest.approx(float((0.9 - 0.45) / spread))
    flat = torch.zeros(1, 4, dtype=torch.float64)
    assert separation(flat, (1,)).tolist() == [0]


def test_the_head_that_finds_the_chunks_is_best_and_as_few_as_find_them():
    """Head (1, 0) finds the truth of every question, (0, 1) that of the first only."""
    keys = torch.zeros(2, 2, 5, dtype=torch.float64)
    found = []
    for truth in (1, 3):
        scores = keys.clone()
        scores[1, 0, truth] = 1
        scores[0, 1, 1] = 1
        found.append(Found(scores, scores.sum(dim=-1), (truth,)))
    scores = key_scores(found)
    assert ranked(scores)[:2] == ((1, 0), (0, 1))
    assert best_count(found, ranked(scores)) == 1
