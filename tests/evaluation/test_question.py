"""What is asked about a video: draws that tries share, truth outside the video, files that do not fit."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest

from tests.clips import Clips, flat
from tests.evaluation.test_runner import Tries, go
from tests.evaluation.test_settings import levels
from x2l.analysis.points import points
from x2l.benchmarks.needle.benchmark import Needle
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.engine.flops import kv_bytes
from x2l.evaluation.settings import ConfigError
from x2l.models import loading
from x2l.selectors.controls import RandomSelector, SelectAll, SelectNone
from x2l.selectors.from_file import FileSelector
from x2l.selectors.oracle import HitRateSelector, OracleSelector


@pytest.fixture(scope="module")
def model():
    return loading.load("x2l_tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    Clips(str(root)).prepare()
    return root


def selected(records, selector):
    found = defaultdict(set)
    for record in flat(records):
        if record.selector == selector:
            found[record.group or record.sample_id].add(record.selected)
    return found


def test_tries_of_one_question_share_their_draws(tmp_path, model):
    """Drawn anew, all four would be hit with the rate to the power of four."""
    selectors = {"random": RandomSelector(), "half": HitRateSelector(0.5)}
    needle = Needle(str(tmp_path / "n"), videos=1, seconds=16, questions=2, circular=True)
    records = go(
        tmp_path / "r", tmp_path, lambda: model, selectors, needle, top_k=(1,), frames=16
    ).records
    for name in selectors:
        groups = selected(records, name)
        assert len(groups) == 6 and all(len(chosen) == 1 for chosen in groups.values())
        assert len(set.union(*groups.values())) > 1  # other questions draw for themselves


def test_tries_share_draws_by_the_benchmarks_own_groups(tmp_path, data, model):
    one = {"random": RandomSelector()}
    tries = go(tmp_path / "a", data, lambda: model, one, Tries(str(data)), top_k=(1,)).records
    assert [len(chosen) for chosen in selected(tries, "random").values()] == [1, 1]
    alone = go(tmp_path / "b", data, lambda: model, one, top_k=(1,)).records
    assert len({record.selected for record in alone}) > 1


class Late(Clips):
    """The first question's answer is told to lie after the video's end."""

    def samples(self):
        first, *rest = super().samples()
        return (replace(first, spans=((90.0, 95.0),)), *rest)


def test_a_truth_outside_the_video_is_told(tmp_path, data, model, caplog):
    one = {"oracle": OracleSelector()}
    records = go(tmp_path, data, lambda: model, one, Late(str(data)), top_k=(1,)).records
    assert [record.question.gt_chunks == () for record in records] == [True, *[False] * 5]
    told = [r.getMessage() for r in caplog.records if "no ground-truth chunk" in r.getMessage()]
    assert len(told) == 1 and "clip0/0" in told[0] and "the 16.0 s of the video" in told[0]


def test_a_file_of_another_sampling_is_the_users_to_correct(tmp_path, data, model):
    """Three numbers for four chunks: within bounds, so it shows only when the video is read."""
    samples = Clips(str(data)).samples()
    path = tmp_path / "chosen.json"
    entries = {f"{s.video_id}.mp4_{s.question}": {"relevance": [0, 1, 2]} for s in samples}
    path.write_text(json.dumps(entries))
    one = {"file": FileSelector.load(str(path))}
    with pytest.raises(ConfigError, match=r"selector\.file\.path=.* rates 3 chunks, but .* has 4"):
        go(tmp_path / "run", data, lambda: model, one, top_k=(1,))
    state = json.loads((tmp_path / "run" / "status.json").read_text())
    assert state["state"] == "failed" and state["error"].startswith("ConfigError: selector.file")


def test_three_levels_by_rank_and_by_bytes(tmp_path, data, model):
    """4 chunks of 32 tokens: 16, 8 or 4 of them kept."""
    selectors = {"random": RandomSelector(), "all": SelectAll(), "none": SelectNone()}
    top_k = ("1+2", 1, "60%", "gt")
    names = ("fine", "mid", "bare")
    methods = {name: Level(ToMe(), ratio) for name, ratio in zip(names, (2, 4, 8), strict=True)}
    summary = go(
        tmp_path,
        data,
        lambda: model,
        selectors,
        methods=methods,
        levels=levels(2, 4, 8, names=names),
        top_k=top_k,
    )
    records = flat(summary.records)
    assert {tuple(r.kept["mid"]) for r in records} == {(8, 8, 8, 8)}
    found = defaultdict(set)
    for r in records:
        found[r.selector, r.top_k].add(tuple(sorted(r.assigned)))
        assert r.selected == tuple(i for i, level in enumerate(r.assigned) if level != "bare")
    assert found["all", None] == {("fine",) * 4} and found["none", None] == {("bare",) * 4}
    assert found["random", "1+2"] == {("bare", "fine", "mid", "mid")}
    assert found["random", 1] == {("bare", "bare", "bare", "fine")}
    token = kv_bytes(model.shape, 1)
    text = records[0].kv_bytes_full - 128 * token
    sizes = {"fine": 16 * token, "mid": 8 * token, "bare": 4 * token}
    for r in records:
        assert r.kv_bytes_attended == text + sum(sizes[level] for level in r.assigned)
        assert 0 < r.kv_bytes_stored - r.kv_bytes_attended < 0.3 * r.kv_bytes_attended  # places
        reloaded = sum(sizes[level] for level in r.assigned if level != "bare")
        assert reloaded <= r.kv_bytes_reloaded < 1.3 * reloaded or not reloaded
        if r.top_k == "60%":
            left = 0.6 * r.kv_bytes_full - r.kv_bytes_attended
            assert left >= 0 and (left < 4 * token or set(r.assigned) == {"fine"})
    conditions = [row.condition for row in points(summary.records)]
    assert [c.top_k for c in conditions if c.selector == "random"] == [1, "1+2", "60%", "gt"]


def test_a_budget_too_small_is_refused_before_the_prefill(tmp_path, data, model):
    with pytest.raises(ConfigError, match=r"top_k=5%: must be at least \d+\.\d% .*the video takes"):
        go(tmp_path, data, lambda: model, {"random": RandomSelector()}, top_k=("5%",))


def test_controls_need_no_room_in_a_budget(tmp_path, data, model):
    records = go(tmp_path, data, lambda: model, {"none": SelectNone()}, top_k=("5%",)).records
    assert len(records) == 6


def test_a_ladder_of_another_number_of_levels_is_refused(tmp_path, data, model):
    with pytest.raises(ValueError, match="levels are low, high, so give 1"):
        go(tmp_path, data, lambda: model, {"random": RandomSelector()}, top_k=("1+2",))
