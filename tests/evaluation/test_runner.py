"""The loop, for real: x2l_tiny on two short clips. Answers are not judged here, only kept."""

import csv
import json
import math
import os
import re
import shutil
import signal
import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from tests import fork_server
from tests.clips import Clips, flat
from tests.evaluation.test_settings import levels, settings
from x2l.analysis.points import points
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.evaluation import runner, session, video
from x2l.evaluation.settings import ConfigError
from x2l.models import loading
from x2l.models.interface import NotFiniteError
from x2l.runs.records import RecordWriter, deterministic, load
from x2l.runs.run_info import describe, identity
from x2l.runs.trackers.base import NoTracker
from x2l.selectors.attention import AttentionSelector
from x2l.selectors.base import FrameSelector, Watch
from x2l.selectors.controls import MatchedRandomSelector, RandomSelector, SelectAll, SelectNone
from x2l.selectors.oracle import OracleSelector

CONFIG = {"what": "clips"}
SELECTORS = {
    "all": SelectAll(),
    "none": SelectNone(),
    "oracle": OracleSelector(),
    "attention": AttentionSelector(),
    "random": RandomSelector(),
}
# Two clips, three questions, two controls and three selectors at four k.
EXPECTED = 2 * 3 * (2 + 3 * 4)


@pytest.fixture(scope="module")
def model():
    return loading.load("x2l_tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    Clips(str(root)).prepare()
    return root


def never(*_):
    raise AssertionError("nothing is missing, so no model is needed")


def go(
    folder,
    data,
    load_model,
    selectors=SELECTORS,
    benchmark=None,
    ratios=(2, 8),
    tracker=None,
    methods=None,
    **changes,
):
    values = settings(
        run_id=identity(CONFIG),
        chunk_frames=4,
        max_new_tokens=3,
        **{
            "levels": levels(*ratios),
            "frames": 16,
            "top_k": (0, 1, 2, "gt"),
            "pinned": (),
            **changes,
        },
    )
    return runner.run(
        values,
        benchmark or Clips(str(data)),
        load_model,
        methods or {"low": Level(ToMe(), ratios[0]), "high": Level(ToMe(), ratios[1])},
        selectors,
        folder,
        describe(values.run_id, CONFIG, "cpu", "a processor", 1),
        tracker or NoTracker(),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory, data, model):
    folder = tmp_path_factory.mktemp("done")
    return folder, go(folder, data, lambda: model)


def stable(folder):
    return {record.key: deterministic(record) for record in load(folder)}


def test_one_record_for_every_question_selector_and_k(done):
    folder, summary = done
    assert (summary.added, summary.expected, summary.errors) == (EXPECTED, EXPECTED, ())
    assert len(load(folder)) == len((folder / "records.jsonl").read_text().splitlines()) == EXPECTED
    assert {path.name for path in folder.iterdir()} == {
        "records.jsonl",
        "run.json",
        "status.json",
        "points.csv",
    }
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["records"]) == ("done", EXPECTED)


def test_controls_have_one_record_a_question_whatever_k(done):
    _, summary = done
    controls = [r for r in flat(summary.records) if r.selector in ("all", "none")]
    assert len(controls) == 2 * 6 and {r.top_k for r in controls} == {None}
    assert {len(r.selected) for r in controls if r.selector == "all"} == {4}
    assert {len(r.selected) for r in controls if r.selector == "none"} == {0}


def test_records_tell_what_was_kept_and_selected(done):
    _, summary = done
    for r in flat(summary.records):
        # 4 frames of 64 px: 2 steps of 16 tokens; half and an eighth of 32
        assert r.kept == {"low": (16, 16, 16, 16), "high": (4, 4, 4, 4)}
        assert r.measured_ratio == {"low": 2.0, "high": 8.0}
        assert len(r.relevance) == 4
        if isinstance(r.top_k, int) and r.selector in ("attention", "random"):
            assert len(r.selected) == r.top_k
        if r.selector == "oracle" and r.top_k == "gt":
            assert r.selected == r.gt_chunks and (r.recall, r.precision) == (1.0, 1.0)


def test_bytes_grow_with_what_is_reloaded(done):
    _, summary = done
    resident = {r.selector: r.kv_bytes_attended for r in flat(summary.records) if r.top_k is None}
    for r in flat(summary.records):
        assert resident["none"] <= r.kv_bytes_attended <= resident["all"] < r.kv_bytes_full
        assert r.kv_bytes_attended < r.kv_bytes_stored  # positions and weights
        assert (r.kv_bytes_reloaded > 0) == bool(r.selected)
        one = (resident["all"] - resident["none"]) // 4
        assert r.kv_bytes_attended == resident["none"] + one * len(r.selected)


def test_equal_selections_have_equal_answers(done):
    """k = 0 of any selector is the all-high control."""
    _, summary = done
    control = {r.sample_id: r for r in flat(summary.records) if r.selector == "none"}
    for r in flat(summary.records):
        if r.top_k == 0:
            same = control[r.sample_id]
            assert (r.prediction, r.flops_decode) == (same.prediction, same.flops_decode)


def test_each_video_is_prefilled_once_and_each_relevance_computed_once(
    tmp_path, data, model, monkeypatch
):
    calls = {"prefill": 0, "relevance": 0}
    real_prefill, real_relevance = session.prefill, AttentionSelector.relevance

    def counted_prefill(*args, **kwargs):
        calls["prefill"] += 1
        return real_prefill(*args, **kwargs)

    def counted_relevance(*args, **kwargs):
        calls["relevance"] += 1
        return real_relevance(*args, **kwargs)

    monkeypatch.setattr(session, "prefill", counted_prefill)
    monkeypatch.setattr(AttentionSelector, "relevance", counted_relevance)
    go(tmp_path, data, lambda: model, {"attention": AttentionSelector()})
    assert calls == {"prefill": 2, "relevance": 6}


def test_the_same_seed_gives_the_same_records(done, tmp_path, data, model):
    folder, _ = done
    go(tmp_path, data, lambda: model)
    assert list(stable(tmp_path).items()) == list(stable(folder).items())  # in the same order too


def test_a_finished_run_does_nothing_when_run_again(done, data, monkeypatch):
    folder, _ = done
    before = (folder / "records.jsonl").read_bytes()
    monkeypatch.setattr(video, "open_frames", never)
    summary = go(folder, data, never)
    assert (summary.added, len(summary.records)) == (0, EXPECTED)
    assert (folder / "records.jsonl").read_bytes() == before


def test_a_wider_run_adds_only_what_is_new(done, tmp_path, data, model):
    folder, _ = done
    shutil.copytree(folder, tmp_path / "run")
    summary = go(tmp_path / "run", data, lambda: model, top_k=(0, 1, 2, 3, "gt"))
    assert summary.added == 3 * 6
    assert stable(tmp_path / "run").items() >= stable(folder).items()


def test_only_the_video_with_something_missing_is_read(done, tmp_path, data, model, monkeypatch):
    folder, _ = done
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "records.jsonl").write_text("".join(lines[:-1]))
    read, real = [], video.open_frames
    monkeypatch.setattr(
        video, "open_frames", lambda path, *a: read.append(Path(path).name) or real(path, *a)
    )
    assert go(tmp_path / "run", data, lambda: model).added == 1
    assert read == ["clip1.mp4"]


def test_the_limit_counts_questions(tmp_path, data, model):
    summary = go(tmp_path, data, lambda: model, {"none": SelectNone()}, limit=4)
    assert [r.sample_id for r in flat(summary.records)] == [
        "clip0/0",
        "clip0/1",
        "clip0/2",
        "clip1/0",
    ]


def test_pinned_chunks_are_reloaded_and_part_of_the_key(tmp_path, data, model):
    one = {"oracle": OracleSelector()}
    go(tmp_path, data, lambda: model, one, top_k=(0,))
    summary = go(tmp_path, data, lambda: model, one, top_k=(0,), pinned=("first", "last"))
    assert summary.added == 6
    assert {r.selected for r in flat(summary.records)} == {(0, 3)}


def test_full_kvs_share_is_one(tmp_path, data, model):
    summary = go(tmp_path, data, lambda: model, {"none": SelectNone()}, ratios=(1, 1))
    (point,) = points(summary.records)
    assert point.condition.baseline == "full" and point.kv_bytes_attended == point.kv_bytes_full
    assert 1 < point.kv_share < 1.01  # positions come on top


KILLED = """
import sys
from pathlib import Path
from tests.evaluation.test_runner import go
from x2l.models import loading
from x2l.models.interface import NotFiniteError
go(Path(sys.argv[1]), Path(sys.argv[2]), lambda: loading.load("x2l_tiny"))
"""


def wait_for_records(process, folder, number):
    path = folder / "records.jsonl"
    while not process.ended():
        if path.exists() and path.read_bytes().count(b"\n") >= number:
            return
        time.sleep(0.01)
    raise AssertionError("ended before it was interrupted")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_losing_or_doubling(done, tmp_path, data, model):
    """SIGKILL: tests/experiments/test_kill_sweep.py."""
    whole, _ = done
    folder = tmp_path / "run"
    (tmp_path / "killed.py").write_text(KILLED)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"}
    with (tmp_path / "told").open("w") as file:
        streams = [0, file.fileno(), file.fileno()]
        process = fork_server.Process("killed", [folder, data], root, environment, streams)
        wait_for_records(process, folder, 20)
        os.kill(process.pid, signal.SIGINT)
        process.wait()
    survived = load(folder)
    assert 20 <= len(survived) < EXPECTED
    state = json.loads((folder / "status.json").read_text())["state"]
    assert state == "interrupted"
    with (folder / "records.jsonl").open("a") as file:  # what a kill in mid-write leaves
        file.write('{"run_id": "7')
    summary = go(folder, data, lambda: model)
    assert summary.added == EXPECTED - len(survived)
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert len(lines) == EXPECTED + 1  # the torn one stays, alone on its line
    assert stable(folder) == stable(whole)


def spoiled(data, tmp_path, spoil):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    spoil(copy / "clip0.mp4")
    return copy


class Kept(Clips):
    """Does not make missing files again."""

    def prepare(self, progress=None):
        pass


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:1500]), "clip0.mp4"),
        (lambda path: path.write_text("not a video"), "not a readable video"),
    ],
    ids=["missing", "empty", "cut", "text"],
)
def test_a_bad_video_is_named_and_the_run_goes_on(tmp_path, data, model, spoil, reason):
    copy = spoiled(data, tmp_path, spoil)
    folder = tmp_path / "run"
    only = {"none": SelectNone()}
    summary = go(folder, copy, lambda: model, only, Kept(str(copy)))
    assert {r.video_id for r in flat(summary.records)} == {"clip1"}
    (error,) = summary.errors
    assert "clip0" in error and reason in error
    (line,) = map(json.loads, (folder / "errors.jsonl").read_text().splitlines())
    assert (line["video_id"], line["questions"]) == ("clip0", 3) and reason in line["error"]
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["records"], status["expected"]) == ("done-with-errors", 3, 6)
    shutil.copy(data / "clip0.mp4", copy)  # repaired: the same command completes the run
    summary = go(folder, copy, lambda: model, only, Kept(str(copy)))
    assert (summary.added, summary.errors) == (3, ())
    assert not (folder / "errors.jsonl").exists()


@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_and_no_answer(tmp_path, data, model, damage):
    weight = model.hf.get_output_embeddings().weight.data
    whole = weight.clone()
    weight[-1] = damage
    try:
        summary = go(tmp_path, data, lambda: model, {"none": SelectNone()}, Kept(str(data)))
    finally:
        weight.copy_(whole)
    assert summary.records == () and len(summary.errors) == 2
    assert re.search(r"dtype=float32: \d+ of \d+ logits .* set model\.dtype=", summary.errors[0])


@pytest.mark.parametrize(
    ("selectors", "top_k", "field"),
    [
        ({"oracle": OracleSelector()}, (1,), "selector=oracle"),
        ({"r": RandomSelector()}, ("gt",), "top_k=gt"),
    ],
)
def test_truth_that_the_benchmark_lacks_is_an_early_error(tmp_path, data, selectors, top_k, field):
    benchmark = Clips(str(data), known=False)
    with pytest.raises(ConfigError, match=f"{field}: the benchmark does not say"):
        go(tmp_path, data, never, selectors, benchmark, top_k=top_k)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed" and field in status["error"]


def test_k_beyond_a_short_video_takes_all_of_it(tmp_path, data, model):
    """16 seconds at 1 fps are 4 chunks of 4, though video.frames=128 allows 32."""
    values = settings(
        run_id=identity(CONFIG), frames=128, chunk_frames=4, top_k=(20,), pinned=(), limit=1
    )
    summary = runner.run(
        values,
        Clips(str(data)),
        lambda: model,
        {"low": Level(ToMe(), 2), "high": Level(ToMe(), 32)},
        {"random": RandomSelector()},
        tmp_path,
        describe(values.run_id, CONFIG, "cpu", "a processor", 1),
        NoTracker(),
    )
    assert [r.selected for r in flat(summary.records)] == [(0, 1, 2, 3)]


def test_a_folder_of_another_run_is_left_alone(done, data):
    folder, _ = done
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = {"what": "else"}
    with pytest.raises(ConfigError, match="what: clips there, else now"):
        runner.run(
            settings(run_id=identity(other)),
            Clips(str(data)),
            never,
            {},
            {},
            folder,
            describe(identity(other), other, "cpu", "a processor", 1),
            NoTracker(),
        )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_several_requests_of_one_run_share_a_folder(tmp_path, data, model):
    """As `x2l -m selector=oracle,none` does: the folder is named by what is pre-filled."""

    def status():
        values = json.loads((tmp_path / "status.json").read_text())
        return values["state"], values["records"], values["expected"]

    go(tmp_path, data, lambda: model, {"oracle": OracleSelector()}, top_k=(1,), limit=3)
    assert status() == ("done", 3, 3)
    summary = go(tmp_path, data, lambda: model, {"none": SelectNone()}, limit=4)
    assert (len(summary.records), summary.expected) == (4, 4)  # what was asked for now
    assert status() == ("done", 7, 7)  # and all of it
    with (tmp_path / "points.csv").open() as file:
        assert {row["selector"]: row["questions"] for row in csv.DictReader(file)} == {
            "oracle": "3",
            "none": "4",
        }
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [[one["selector"] for one in session["conditions"]] for session in sessions] == [
        ["oracle"],
        ["none"],
    ]
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(lines[1:]))  # one of the oracle's is lost
    go(tmp_path, data, never, {"none": SelectNone()}, limit=4)
    assert status() == ("incomplete", 6, 7)


def test_a_run_with_nothing_to_do_leaves_no_session(done, data):
    folder, _ = done
    before = (folder / "run.json").read_bytes()
    go(folder, data, never)
    assert (folder / "run.json").read_bytes() == before


class Tries(Clips):
    """The questions of a clip are tries of one question."""

    def group(self, sample):
        return sample.video_id


def test_a_limit_cuts_no_group(data):
    samples = Tries(str(data)).samples()
    assert len(runner.limited(samples, Tries(str(data)), 1)) == 3
    assert len(runner.limited(samples, Tries(str(data)), 4)) == 6
    assert len(runner.limited(samples, Clips(str(data)), 4)) == 4
    assert runner.limited(samples, Tries(str(data)), None) == samples


class Faulty(SelectNone):
    """A selector with a fault of its own."""

    def relevance(self, query, store, model, meter):
        raise ValueError("shapes do not fit")


def test_a_fault_within_the_loop_is_not_the_users_and_names_the_video(tmp_path, data, model):
    with pytest.raises(ValueError, match="shapes do not fit") as raised:
        go(tmp_path, data, lambda: model, {"faulty": Faulty()})
    assert not isinstance(raised.value, ConfigError)
    assert "clip0.mp4" in raised.value.__notes__[0]
    assert "clip0.mp4" in json.loads((tmp_path / "status.json").read_text())["traceback"]


def test_a_failure_is_on_disk(tmp_path, data):
    def broken():
        raise RuntimeError("no memory for weights")

    with pytest.raises(RuntimeError):
        go(tmp_path, data, broken)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed" and status["error"] == "RuntimeError: no memory for weights"
    assert "broken" in status["traceback"]


def test_records_of_earlier_settings_do_not_count(tmp_path, data, model):
    """Another seed of the random selector is another cell."""
    go(tmp_path, data, lambda: model, {"random": RandomSelector(seed=0)}, top_k=(1,))
    summary = go(tmp_path, data, lambda: model, {"random": RandomSelector(seed=1)}, top_k=(1,))
    assert summary.added == 6
    assert len(load(tmp_path)) == 12


def test_unfinished_lines_do_not_stop_a_writer(tmp_path):
    (tmp_path / "records.jsonl").write_text("{")
    with RecordWriter(tmp_path / "records.jsonl"):
        pass
    assert (tmp_path / "records.jsonl").read_text() == "{\n"


# --- selectors that look at frames, matched budgets, controls ---------------------------------------


class Means(Watch):
    """Of each frame; counts a thousand operations a frame, and the chunks that it was shown."""

    def __init__(self, meter, shown):
        self.meter, self.shown, self.means = meter, shown, []

    def show(self, chunk, pixels):
        self.shown.append(chunk.index)
        self.meter.add("retrieval", 1000 * len(pixels))
        self.means.append(pixels.float().mean(dim=(1, 2, 3)))

    def remembered(self):
        return torch.cat(self.means)


@dataclass(frozen=True)
class Brightness(FrameSelector):
    """The brightest chunk. Final; `calls` are the chunks that were shown, by video."""

    calls: list = field(default_factory=list, repr=False, compare=False)
    name: str = "brightness"

    def watch(self, meter):
        self.calls.append([])
        return Means(meter, self.calls[-1])

    def relevance(self, query, store, model, meter):
        return torch.stack(
            [query.prepared[c.frames[0] : c.frames[1]].max() for c in store.prompt.chunks]
        )


def test_frames_are_shown_once_a_video_and_counted_for_their_selector_alone(tmp_path, data, model):
    bright = Brightness()
    selectors = {"bright": bright, "random": RandomSelector()}
    summary = go(tmp_path, data, lambda: model, selectors, top_k=(1, 2))
    assert (
        bright.calls == [list(range(len(one))) for one in bright.calls] and len(bright.calls) == 2
    )
    for record in flat(summary.records):
        mine = record.selector == "bright"
        assert record.flops_retrieval == (16_000 if mine else 0)
        assert (record.seconds_retrieval > 0) == mine
    (point,) = [
        p
        for p in points(summary.records)
        if (p.condition.selector, p.condition.top_k) == ("bright", 1)
    ]
    assert point.flops["retrieval"] == pytest.approx(16_000 / 3)  # shared by a video's questions
    ranked = {r.video_id: r.relevance for r in flat(summary.records) if r.selector == "bright"}
    assert ranked["clip0"] != ranked["clip1"]


def test_a_matched_selector_spends_what_the_other_does(tmp_path, data, model):
    """The oracle re-loads one chunk whatever k, and pinned ones; `random` would re-load k and the pinned ones."""
    selectors = {"oracle": OracleSelector(), "matched": MatchedRandomSelector("oracle")}
    pinned = ("last",)
    summary = go(tmp_path, data, lambda: model, selectors, top_k=(0, 1, 3), pinned=pinned)
    spent = {(r.sample_id, r.selector, r.top_k): r.kv_bytes_reloaded for r in flat(summary.records)}
    for (sample, selector, k), size in spent.items():
        if selector == "matched":
            assert size == spent[sample, "oracle", k] > 0
    taken = {r.selected for r in flat(summary.records) if r.selector == "matched"}
    assert len(taken) > 2 and {
        r.pinned for r in flat(summary.records) if r.selector == "matched"
    } == {()}


def test_a_match_still_knows_what_its_partner_saw(tmp_path, data, model):
    """Only the matched selector's answers are missing; the partner's choice is made again, frames and all."""
    selectors = {"bright": Brightness(), "matched": MatchedRandomSelector("bright")}
    whole = go(tmp_path, data, lambda: model, selectors, top_k=(2,))
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"selector": "bright"' in line))
    resumed = go(tmp_path, data, lambda: model, selectors, top_k=(2,))
    assert resumed.added == 6
    assert [r.selected for r in flat(resumed.records)] == [r.selected for r in flat(whole.records)]


def test_a_match_without_a_partner_is_an_early_error(tmp_path, data):
    with pytest.raises(
        ConfigError, match=r"selector\.matched\.to=oracle: must be another selector"
    ):
        go(tmp_path, data, never, {"matched": MatchedRandomSelector("oracle")})


def test_hits_are_in_every_record_where_spans_are(done):
    _, summary = done
    for record in flat(summary.records):
        hit = bool(set(record.selected) & set(record.gt_chunks))
        assert record.hit == float(hit) == float(record.recall > 0)


def test_without_spans_there_is_nothing_to_hit(tmp_path, data, model):
    one = {"random": RandomSelector()}
    benchmark = Clips(str(data), known=False)
    summary = go(tmp_path, data, lambda: model, one, benchmark, top_k=(1,))
    assert {(r.hit, r.recall, r.precision) for r in flat(summary.records)} == {(None, None, None)}


def test_a_k_of_its_own_for_every_task(tmp_path, data, model):
    tuned = {"split": "test", "tuned_on": "dev"}
    tuned |= {"top_k_by_task": {"retrieval": 1, "counting": 3}, "top_k": ("task",)}
    summary = go(tmp_path, data, lambda: model, {"random": RandomSelector()}, **tuned)
    assert {(r.task, len(r.selected)) for r in flat(summary.records)} == {
        ("retrieval", 1),
        ("counting", 3),
    }
    assert {(r.top_k, r.tuned_on) for r in flat(summary.records)} == {("task", "dev")}
    assert [p.condition.top_k for p in points(summary.records)] == ["task"]


@pytest.fixture(scope="module")
def fewer(tmp_path_factory, data, model):
    folder = tmp_path_factory.mktemp("fewer")
    return go(folder, data, lambda: model, control="equal_kv_bytes", top_k=(0, 2, 4, "gt"))


def test_fewer_frames_spend_the_methods_bytes_uncompressed(done, fewer):
    """4 chunks of 32 tokens, half or an eighth kept; a time step is 16 tokens, so the budgets are met to half of it."""
    _, summary = done
    assert len(fewer.records) == 6 * 4
    step = {
        r.kv_bytes_full - r.kv_bytes_attended for r in flat(summary.records) if r.selector == "all"
    }
    step = step.pop() // 4  # all-low keeps half of 8 steps
    for record in flat(fewer.records):
        assert (record.control, record.selector) == ("equal_kv_bytes", "none")
        assert abs(record.kv_bytes_stored - record.kv_bytes_budget) <= 1.01 * (step // 2)
        assert record.measured_ratio == {"low": 1.0, "high": 1.0}
        assert [level["ratio"] for level in record.levels] == [
            2,
            8,
        ]  # the method's, whose bytes they are
        assert record.frames_sampled == 16 and record.frames_prefilled < 16
        assert (record.selected, record.recall, record.hit) == ((), None, None)
        assert (record.kv_bytes_reloaded, record.kv_bytes_host) == (0, 0)
    method = {
        (r.sample_id, r.top_k): r.kv_bytes_stored
        for r in flat(summary.records)
        if r.selector == "random"
    }
    for record in flat(fewer.records):
        if (record.sample_id, record.top_k) in method:
            stored = method[record.sample_id, record.top_k]
            assert record.kv_bytes_budget == pytest.approx(stored, rel=0.005)


def test_equal_flops_are_those_of_a_lone_question(tmp_path, data, model):
    """Of as many frames as come nearest: all of them, where the method's pre-fill takes more than one over all."""
    for context in ("own", "high"):
        folder, values = tmp_path / context, dict(context=context, top_k=(2,), limit=2)
        method = go(folder / "m", data, lambda: model, {"random": RandomSelector()}, **values)
        control = go(folder / "c", data, lambda: model, control="equal_flops", **values)
        for one, other in zip(method.records, control.records, strict=True):
            spent = sum(one.flops.values()) - one.flops["selection"]
            assert other.video.flops_budget == pytest.approx(spent, rel=0.02)
            assert other.video.kv_bytes_budget is None and other.condition.control == "equal_flops"
            count, took = other.video.frames_prefilled, sum(other.flops.values())
            if context == "own":
                assert count == other.video.frames_sampled and took < 0.7 * spent
            else:
                assert (
                    abs(took - spent) <= took / count + 0.02 * spent
                )  # half a time step of two frames


def test_fewer_frames_are_a_run_of_fewer_frames(tmp_path, data, model):
    """Their answers are those of an uncompressed run that samples as many frames (all are there to choose from)."""
    every = dict(fps=None, frames=32, top_k=(2,))
    fewer = go(tmp_path / "fewer", data, lambda: model, control="equal_kv_bytes", **every)
    (count,) = {r.frames_prefilled for r in flat(fewer.records)}
    plain = dict(fps=None, frames=count, ratios=(1, 1))
    full = go(tmp_path / "full", data, lambda: model, {"none": SelectNone()}, **plain)
    assert count < 16 and len(full.records) == 6
    for a, b in zip(flat(fewer.records), flat(full.records), strict=True):
        assert (a.sample_id, a.prediction) == (b.sample_id, b.prediction)
        assert (a.kv_bytes_stored, a.flops_decode) == (b.kv_bytes_stored, b.flops_decode)
        assert (a.flops_vision, a.flops_prefill) == (b.flops_vision, b.flops_prefill)


def test_a_finished_run_of_fewer_frames_does_nothing_when_run_again(tmp_path, data, model):
    values = dict(control="equal_kv_bytes", top_k=(2,), limit=1)
    assert go(tmp_path, data, lambda: model, **values).added == 1
    assert go(tmp_path, data, never, **values).added == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_records_are_the_same_however_many_are_decoded_together(done, tmp_path, data, model, batch):
    folder, _ = done  # decode.batch=auto
    go(tmp_path, data, lambda: model, batch=batch)
    assert list(stable(tmp_path).items()) == list(stable(folder).items())


@pytest.mark.parametrize("positions", ["compact", "keep"])
def test_fewer_frames_are_the_same_however_many_are_decoded_together(
    tmp_path, data, model, positions
):
    values = dict(control="equal_kv_bytes", top_k=(0, 2), positions=positions)
    go(tmp_path / "alone", data, lambda: model, batch=1, **values)
    go(tmp_path / "together", data, lambda: model, **values)
    alone, together = stable(tmp_path / "alone"), stable(tmp_path / "together")
    assert list(alone.items()) == list(together.items()) and len(alone) == 12


def batches(monkeypatch, fails=lambda requests: None):
    """Sizes of the batches that were decoded; raises what `fails` gives for the requests of one."""
    sizes, real = [], session.answers

    def counted(model, store, requests, *args, **kwargs):
        if (error := fails(requests)) is not None:
            raise error
        sizes.append(len(requests))
        return real(model, store, requests, *args, **kwargs)

    monkeypatch.setattr(session, "answers", counted)
    return sizes


def test_all_questions_of_a_video_are_decoded_together(tmp_path, data, model, monkeypatch):
    sizes = batches(monkeypatch)
    go(tmp_path, data, lambda: model, {"none": SelectNone(), "all": SelectAll()})
    assert sizes == [6, 6]
    del sizes[:]
    go(tmp_path / "four", data, lambda: model, {"none": SelectNone(), "all": SelectAll()}, batch=4)
    assert sorted(sizes) == [2, 2, 4, 4]


def test_a_batch_without_memory_is_halved(done, tmp_path, data, model, monkeypatch):
    folder, _ = done
    sizes = batches(monkeypatch, lambda requests: MemoryError() if len(requests) > 3 else None)
    go(tmp_path, data, lambda: model)
    assert list(stable(tmp_path).items()) == list(stable(folder).items())
    assert 1 < max(sizes) <= 3


@pytest.mark.parametrize("batch", [1, 4, "auto"])
def test_a_question_that_fails_ends_its_video_alone(tmp_path, data, model, monkeypatch, batch):
    """Those asked before it are answered, those after it are not."""

    def fails(requests):
        third = any("ring" in request.question.text for request in requests)
        return NotFiniteError("no numbers") if third else None

    texts = ["What of the star?", "What of the ring?", "What of the square?"]

    class Worded(Clips):
        def samples(self):
            return tuple(
                replace(sample, question=texts[index % 3])
                for index, sample in enumerate(super().samples())
            )

    batches(monkeypatch, fails)
    one = {"none": SelectNone(), "all": SelectAll()}
    summary = go(tmp_path, data, lambda: model, one, Worded(str(data)), batch=batch)
    answered = [(r.question.sample_id, r.condition.selector) for r in load(tmp_path)]
    assert answered == [
        (f"clip{clip}/0", selector) for clip in (0, 1) for selector in ("none", "all")
    ]
    assert len(summary.errors) == 2 and "no numbers" in summary.errors[0]


def test_an_answer_without_memory_is_told_and_others_are_answered(
    tmp_path, data, model, monkeypatch
):
    def fails(requests):
        everything = any(set(request.assignment) == {"low"} for request in requests)
        return MemoryError() if everything else None

    batches(monkeypatch, fails)
    summary = go(tmp_path, data, lambda: model, {"none": SelectNone(), "all": SelectAll()})
    assert {r.condition.selector for r in summary.records} == {"none"}
    assert [failure.condition.selector for failure in summary.out_of_memory] == ["all"] * 6


class Many(Clips):
    """Fifty videos, two files."""

    def samples(self):
        two = super().samples()
        return tuple(
            replace(two[number % 2 * self.questions], id=f"v{number}/0", video_id=f"v{number}")
            for number in range(50)
        )


@pytest.mark.slow
def test_fifty_videos_leave_nothing_behind(tmp_path, data, model, monkeypatch):
    """At most one video's KVs at any time; as many open files and threads after 50 videos as after 20."""
    stores, pixels, open_things = [], [], []
    real_prefill, real_read = session.prefill, video.open_frames

    def read(*args):
        assert all(store() is None for store in stores[:-1]), "KVs of an earlier video"
        frames = real_read(*args)
        pixels.append(weakref.ref(frames))
        return frames

    def prefill(*args, **kwargs):
        store = real_prefill(*args, **kwargs)
        assert all(one() is None for one in stores), "KVs of the video before"
        stores.append(weakref.ref(store))
        open_things.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
        return store

    def decoded(*args, **kwargs):
        assert pixels[-1]() is None, "the frames are still there while questions are answered"
        return real_answer(*args, **kwargs)

    real_answer = session.answers
    monkeypatch.setattr(session, "prefill", prefill)
    monkeypatch.setattr(video, "open_frames", read)
    monkeypatch.setattr(session, "answers", decoded)
    benchmark = Many(str(data), questions=1)
    one = {"none": SelectNone()}
    values = dict(frames=2, ratios=(1, 1), top_k=(0,))
    summary = go(tmp_path, data, lambda: model, one, benchmark, **values)
    assert summary.added == len(stores) == 50
    assert open_things[-1] == open_things[19]


def test_trackers_are_told_of_every_setting_of_a_selector(done, tmp_path, data, model):
    """One folder, random at two seeds: their answers are not one mean, and none overwrites the other."""
    folder = tmp_path / "copy"
    shutil.copytree(done[0], folder)

    class Kept(NoTracker):
        logged, final = {}, {}

        def __enter__(self):
            return self

        def log(self, metrics):
            self.logged.update(metrics)

        def summarize(self, values):
            self.final.update(values)

    kept = Kept()
    go(folder, data, lambda: model, {"random": RandomSelector(seed=1)}, tracker=kept, top_k=(1,))
    configs = sorted({r.selector_config for r in flat(load(folder)) if r.selector == "random"})
    assert len(configs) == 2
    names = {name for name in kept.logged if "random" in name and name.endswith("k=1")}
    assert names == {f"accuracy/random settings {config} k=1" for config in configs}
    assert {
        f"final/random settings {config} k=1/accuracy" for config in configs
    } <= kept.final.keys()
    assert "accuracy/attention k=1" in kept.logged
