"""Running out of memory is a result of the cell it befell: recorded, shown, and tried again next time."""

import json
import shutil
from dataclasses import dataclass, field

import pytest
import torch

from tests.clips import Clips, flat
from tests.evaluation.test_runner import Kept, go
from x2l.analysis.points import points
from x2l.analysis.points_table import table
from x2l.evaluation import session
from x2l.models import loading
from x2l.runs import job_status as jobstatus
from x2l.runs.out_of_memory_log import LOG, load_out_of_memory, summary_lines, unanswered
from x2l.runs.records import load
from x2l.runs.sweep_status import Job
from x2l.runs.trackers.base import NoTracker
from x2l.selectors.base import ChunkSelector
from x2l.selectors.controls import RandomSelector, SelectNone


def told():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")


@pytest.fixture(scope="module")
def model():
    return loading.load("x2l_tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    Clips(str(root)).prepare()
    return root


@dataclass(frozen=True)
class Greedy(ChunkSelector):
    """Asks for more memory than there is, the allocator's own way, as long as `asks` says so."""

    asks: list = field(default_factory=lambda: [True], repr=False, compare=False)
    name: str = "greedy"

    def relevance(self, query, store, model, meter):
        if self.asks[0]:
            torch.empty(1 << 60, dtype=torch.uint8)
        return torch.ones(len(store.prompt.chunks))


def test_a_cell_that_runs_out_is_a_result_and_the_others_are_answered(tmp_path, data, model):
    greedy = Greedy()
    selectors = {"greedy": greedy, "random": RandomSelector()}
    first = go(tmp_path, data, lambda: model, selectors, top_k=(1, 2))
    assert {r.selector for r in flat(first.records)} == {"random"} and len(first.records) == 2 * 6
    assert {(s.condition.selector, s.condition.top_k) for s in first.out_of_memory} == {
        ("greedy", 1),
        ("greedy", 2),
    }
    assert len(first.out_of_memory) == 2 * 6 and first.errors == ()
    assert {(s.stage, s.requested_bytes, s.device) for s in first.out_of_memory} == {
        ("selection", 1 << 60, "cpu")
    }
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["out_of_memory"]) == ("done-with-errors", 12)
    assert {s.key for s in first.out_of_memory}.isdisjoint(r.key for r in first.records)

    again = go(tmp_path, data, lambda: model, selectors, top_k=(1, 2))  # as short as before
    assert again.added == 0 and len(again.out_of_memory) == 12
    assert len(load_out_of_memory(tmp_path)) == 12

    greedy.asks[0] = False  # there is enough now: the same command answers them
    last = go(tmp_path, data, lambda: model, selectors, top_k=(1, 2))
    assert (last.added, last.out_of_memory) == (12, ()) and len(last.records) == 24
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "done"
    assert unanswered(load_out_of_memory(tmp_path), load(tmp_path)) == []


def test_what_ran_out_before_and_is_tried_again_is_still_to_be_done(tmp_path, data, model):
    """Questions of an unreadable video are not: by the end nothing is left, whatever became of each answer."""
    clips = shutil.copytree(data, tmp_path / "clips")
    greedy, left = Greedy(), []

    class Watching(NoTracker):  # told after each video
        def log(self, metrics):
            status = json.loads((tmp_path / "run" / "status.json").read_text())
            left.append(Job("run", None, "running", status).left)

    def again():
        left.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobstatus, "TELL", 0.0)
            asks = dict(benchmark=Kept(str(clips)), tracker=Watching(), top_k=(1, 2))
            go(tmp_path / "run", clips, lambda: model, {"greedy": greedy}, **asks)
        return left

    assert again() == [6, 0]  # all out of memory
    assert again() == [6, 0]
    greedy.asks[0] = False
    (clips / "clip0.mp4").write_bytes(b"")
    assert again() == [6, 0]


def test_only_the_cells_that_need_too_much_run_out(tmp_path, data, model, monkeypatch):
    """The device has room for the H-KVs and one chunk of L-KVs, not for three: 16 KVs a chunk against 4."""
    real, sizes = model.load_rows, []

    def limited(layers, rows, *others):
        held = (rows[0] >= 0).sum(dim=1).tolist()
        sizes.extend(held)
        if max(held) > min(sizes) + 12:
            raise told()
        return real(layers, rows, *others)

    monkeypatch.setattr(model, "load_rows", limited)
    summary = go(tmp_path, data, lambda: model, {"random": RandomSelector()}, top_k=(0, 1, 3))
    assert {r.top_k for r in flat(summary.records)} == {0, 1}
    assert {(s.condition.top_k, s.stage, s.requested_bytes) for s in summary.out_of_memory} == {
        (3, "reload", int(2.5 * 2**30))
    }
    rows = {
        p.condition.top_k: p for p in points(summary.records, out_of_memory=summary.out_of_memory)
    }
    assert (rows[3].questions, rows[3].out_of_memory, rows[1].out_of_memory) == (0, 6, 0)


@pytest.mark.parametrize("error", [told(), MemoryError(), None])
def test_a_video_that_does_not_fit_is_short_in_every_cell(
    tmp_path, data, model, monkeypatch, error
):
    calls, real = [], session.prefill

    def first_runs_out(*arguments, **named):
        calls.append(1)
        if len(calls) > 1:
            return real(*arguments, **named)
        with named.get("meter", arguments[5]).stage("prefill"):
            if error is not None:
                raise error
            torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(session, "prefill", first_runs_out)
    selectors = {"none": SelectNone(), "random": RandomSelector()}
    summary = go(tmp_path, data, lambda: model, selectors, top_k=(1, 2))
    assert {r.video_id for r in flat(summary.records)} == {"clip1"} and len(summary.records) == 9
    assert {(s.video_id, s.stage) for s in summary.out_of_memory} == {("clip0", "prefill")}
    assert len(summary.out_of_memory) == 9
    assert summary_lines(summary.out_of_memory)[0].startswith(
        "tome none: out of memory in prefill, 3 answers about 1 videos (cpu"
    )


def test_a_model_that_does_not_fit_is_short_everywhere(tmp_path, data):
    def too_large():
        raise told()

    summary = go(tmp_path, data, too_large, {"none": SelectNone()})
    assert summary.records == () and {s.stage for s in summary.out_of_memory} == {"load"}
    assert len(summary.out_of_memory) == summary.expected == 6
    (line,) = {s.error for s in summary.out_of_memory}
    assert line.startswith("out of memory: loading the model, float32; use model.dtype=bfloat16,")
    (point,) = points([], out_of_memory=summary.out_of_memory)
    assert "OOM" in table([point])


def test_a_torn_line_is_passed_over_and_a_strange_one_is_an_error(tmp_path):
    (tmp_path / LOG).write_text('{"run_id": "7')
    assert load_out_of_memory(tmp_path) == []
    (tmp_path / LOG).write_text('{"run_id": "7", "pinned": []}\n')
    with pytest.raises(ValueError, match=r"out_of_memory.jsonl:1: not a line of this version"):
        load_out_of_memory(tmp_path)
