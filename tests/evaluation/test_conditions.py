"""Which cells a run has, and what is refused before anything is loaded."""

import json

import pytest

from tests.evaluation.test_settings import TUNED, levels, settings
from x2l.benchmarks.base import Sample
from x2l.evaluation.conditions import cells, check_samples
from x2l.runs.condition import from_json, to_json
from x2l.selectors.attention import AttentionSelector
from x2l.selectors.calibration import Calibration
from x2l.selectors.controls import MatchedRandomSelector, RandomSelector, SelectAll, SelectNone
from x2l.selectors.from_file import FileSelector
from x2l.selectors.keys import KeysSelector
from x2l.selectors.oracle import HitRateSelector, OracleSelector


def sample(task="retrieval", spans=((0.0, 1.0),), number=0):
    return Sample(f"v/{number}", "v", "v.mp4", task, "Who?", ("a", "b"), "A", spans, {})


def conditions(selectors, **changes):
    return [cell.condition for cell in cells(selectors, settings(**changes), "needle", "x2l")]


def test_every_selector_at_every_k_once():
    found = conditions({"all": SelectAll(), "random": RandomSelector()}, top_k=(1, 2, 1))
    assert [(c.selector, c.top_k) for c in found] == [("all", None), ("random", 1), ("random", 2)]
    assert [c.pinned for c in found] == [(), ("first", "last"), ("first", "last")]


def test_a_selector_of_one_level_says_which_by_the_levels_own_name():
    named = {"levels": levels(2, 4, 32, names=("fine", "mid", "bare"))}
    found = conditions({"a": SelectAll(), "n": SelectNone(), "r": RandomSelector()}, **named)
    assert [c.single_level for c in found] == ["fine", "bare", *[None] * 4]
    assert [c.baseline for c in found[:2]] == ["all-fine", "all-bare"]


def test_the_role_follows_from_selector_top_k_and_what_is_matched():
    """Whatever the yaml is called."""
    selectors = {
        "mine": OracleSelector(),
        "oracle_like": AttentionSelector(),
        "chance": RandomSelector(),
        "matched": MatchedRandomSelector("mine"),
        "fair": MatchedRandomSelector("oracle_like"),
    }
    found = {(c.selector, c.top_k): c.role for c in conditions(selectors, top_k=(1, "gt"))}
    assert [found[name, 1] for name in selectors] == [
        "bound",
        "method",
        "control",
        "bound",
        "control",
    ]
    assert {found[name, "gt"] for name in selectors} == {"bound"}


def test_a_condition_is_what_run_json_keeps_of_it():
    for one in conditions({"r": RandomSelector(), "all": SelectAll()}, top_k=(1, "gt", "12%")):
        assert from_json(json.loads(json.dumps(to_json(one)))) == one


def test_a_matched_cell_stands_beside_each_cell_it_matches():
    selectors = {"matched": MatchedRandomSelector("attention"), "attention": AttentionSelector()}
    found = cells(selectors, settings(top_k=(1, "gt")))
    assert [(c.condition.selector, c.condition.top_k) for c in found] == [
        ("matched", 1),
        ("matched", "gt"),
        ("attention", 1),
        ("attention", "gt"),
    ]
    for matched, other in zip(found[:2], found[2:], strict=True):
        assert matched.matched_to == other and matched.condition.pinned == ()


def test_a_matched_cell_is_another_one_when_what_it_matches_changes():
    def config(other, **changes):
        selectors = {"other": other, "matched": MatchedRandomSelector("other")}
        return conditions(selectors, top_k=(1,), **changes)[-1].selector_config

    base = config(RandomSelector())
    assert config(RandomSelector()) == base
    assert config(RandomSelector(seed=1)) != base != config(RandomSelector(), pinned=())


@pytest.mark.parametrize("others", [{}, {"random": MatchedRandomSelector("matched")}])
def test_there_must_be_something_to_match(others):
    selectors = {**others, "matched": MatchedRandomSelector("random"), "all": SelectAll()}
    with pytest.raises(ValueError, match=r"selector\.\w+\.to=\w+: must be another selector"):
        cells(selectors, settings())


def test_fewer_frames_has_one_cell_a_k_whatever_the_selectors():
    found = conditions({"random": RandomSelector()}, top_k=(0, "gt"), control="equal_kv_bytes")
    assert [(c.control, c.selector, c.top_k, c.single_level, c.role) for c in found] == [
        ("equal_kv_bytes", "none", 0, None, "control"),
        ("equal_kv_bytes", "none", "gt", None, "bound"),
    ]


def test_every_task_needs_a_k():
    tuned = settings(**TUNED)
    asked = cells({"random": RandomSelector()}, tuned)
    check_samples([sample(), sample("ordering")], asked, tuned)
    with pytest.raises(ValueError, match="top_k_by_task=.*: has no top_k for counting; add"):
        check_samples([sample(), sample("counting")], asked, tuned)


def test_a_simulated_hit_rate_needs_the_truth():
    asked = cells({"hit_rate_70": HitRateSelector(0.7)}, settings(top_k=(1,)))
    check_samples([sample()], asked, settings())
    with pytest.raises(ValueError, match="selector=hit_rate_70: the benchmark does not say"):
        check_samples([sample(), sample(spans=None)], asked, settings())


def test_a_file_must_know_every_question(tmp_path):
    path = tmp_path / "chosen.json"
    path.write_text('{"v.mp4_Who?": [0]}')
    asked = cells({"file": FileSelector.load(str(path))}, settings(top_k=(1,)))
    check_samples([sample()], asked, settings())
    path.write_text("{}")
    asked = cells({"file": FileSelector.load(str(path))}, settings(top_k=(1,)))
    with pytest.raises(ValueError, match=r"no entry 'v.mp4_Who\?' \(nor for 1 more"):
        check_samples([sample(), sample(number=1)], asked, settings())


@pytest.mark.parametrize("entry", ["[2, 16]", '{"relevance": [' + "0," * 16 + "1]}"])
def test_a_file_for_more_chunks_than_videos_have_is_an_early_error(tmp_path, entry):
    """128 frames in chunks of 8: 16 chunks at most."""
    path = tmp_path / "chosen.json"
    path.write_text(f'{{"v.mp4_Who?": {entry}}}')
    asked = cells({"file": FileSelector.load(str(path))}, settings(top_k=(1,)))
    with pytest.raises(ValueError, match=r"is for 17 chunks or more, but videos have 16 at most"):
        check_samples([sample()], asked, settings())
    check_samples([sample()], asked, settings(frames=256))
    check_samples([sample()], asked, settings(frames=None))


def test_every_taking_rule_of_a_selector_that_chooses():
    selectors = {"r": RandomSelector(), "all": SelectAll(), "m": MatchedRandomSelector("r")}
    found = conditions(selectors, top_k=(1, 2), taking=("top", "mass:0.5", "top"))
    assert [(c.selector, c.taking, c.top_k) for c in found] == [
        *[("r", taking, k) for taking in ("top", "mass:0.5") for k in (1, 2)],
        ("all", "top", None),
        *[("m", taking, k) for taking in ("top", "mass:0.5") for k in (1, 2)],
    ]
    fewer = conditions(
        {"r": RandomSelector()}, control="equal_kv_bytes", taking=("gap",), top_k=(1,)
    )
    assert [c.taking for c in fewer] == ["top"]


def test_what_does_not_fit_the_run_is_refused_before_anything_is_loaded():
    dropping = {"levels": levels(2, None)}
    with pytest.raises(
        ValueError, match=r"selector\.attention\.level=high: must be a level that keeps KVs"
    ):
        conditions({"a": AttentionSelector()}, **dropping)
    assert conditions({"k": KeysSelector()}, **dropping)
    found = Calibration("heads.json", "tiny", None, None, None, "needle/test", ((0, 1),), 1)
    mine = settings().model
    with pytest.raises(
        ValueError, match=rf"heads=heads\.json: holds heads of the model tiny, not of {mine}"
    ):
        conditions({"k": KeysSelector(((0, 1),), calibration=found)})
    found = Calibration("heads.json", mine, None, None, None, "needle/test", ((0, 1),), 1)
    selector = {"k": KeysSelector(((0, 1),), calibration=found)}
    with pytest.raises(
        ValueError, match="its heads were found on needle/test, the split that is evaluated"
    ):
        conditions(selector, benchmark="needle", split="test")
    assert conditions(selector, benchmark="needle", split="dev")
    assert cells(selector, settings(), "", "x2l")  # a video of the user's own
