"""The sets through the whole of x2l: command line, another family of models, shards, what is missing."""

import json
import os
from pathlib import Path

import pytest

from tests import fork_server, layouts
from tests.evaluation.test_settings import levels as level_specs
from tests.evaluation.test_settings import settings
from tests.tiny import ours
from x2l.analysis.collect import records_under
from x2l.analysis.points import points
from x2l.benchmarks.longvideobench import longvideobench
from x2l.benchmarks.mlvu import mlvu
from x2l.benchmarks.videomme import videomme
from x2l.benchmarks.vnbench import vnbench
from x2l.cli import data
from x2l.cli.compose import composed, plain, run_folder
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.evaluation import runner, video
from x2l.runs.records import RecordWriter, deterministic, load
from x2l.runs.run_info import describe, identity
from x2l.runs.trackers.base import NoTracker
from x2l.selectors.controls import SelectNone
from x2l.selectors.oracle import OracleSelector

ROOT = Path(__file__).parents[2]
WRITE = {
    "videomme": layouts.videomme,
    "mlvu": layouts.mlvu_dev,
    "longvideobench": layouts.longvideobench,
    "vnbench": layouts.vnbench,
    "lvbench": layouts.lvbench,
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """All five; of VideoMME one video is missing and one is cut."""
    root = tmp_path_factory.mktemp("sets")
    for name, write in WRITE.items():
        write(root / name)
    videos = sorted((root / "videomme" / "data").iterdir())
    videos[0].unlink()
    videos[1].write_bytes(videos[1].read_bytes()[:4000])
    return root


@pytest.fixture(scope="module")
def swept(disk, tmp_path_factory):
    """`x2l -m benchmark=...` on x2l_tiny: all five sets in one process."""
    folder = tmp_path_factory.mktemp("sweep")
    done = fork_server.run(
        *("x2l.cli.run", "-m", f"benchmark={','.join(WRITE)}"),
        *(f"paths.data={disk}", f"hydra.sweep.dir={folder / 's'}", "tracker=none"),
        *("video.frames=8", "prefill.chunk_frames=4", "selector=[none,uniform]", "top_k=1"),
        "max_new_tokens=4",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    runs = {}
    for path in (folder / "s").rglob("run.json"):
        target = json.loads(path.read_text())["config"]["benchmark"]["_target_"]
        runs[target.rpartition(".")[2]] = path.parent
    return done, runs


def state(folder):
    return json.loads((folder / "status.json").read_text())


@pytest.mark.parametrize(
    ("name", "answers"),
    [("mlvu", 15), ("longvideobench", 6), ("vnbench", 36), ("lvbench", 4)],
)
def test_a_whole_set_is_answered_from_the_command_line(swept, name, answers):
    _, runs = swept
    records = load(runs[name])
    assert state(runs[name])["state"] == "done"
    assert len(records) == 2 * answers  # two selectors
    assert {r.question.row for r in records} == set(range(answers))
    tiny = {(r.condition.model, r.condition.chunk_frames, r.video.frames_sampled) for r in records}
    assert tiny == {("x2l_tiny", 4, 8)}


def test_a_missing_and_a_cut_video_are_told_and_the_rest_is_answered(swept):
    done, runs = swept
    assert done.returncode == 1
    status = state(runs["videomme"])
    assert (status["state"], status["records"], status["expected"]) == ("done-with-errors", 6, 18)
    missing, cut = status["errors"]
    assert "vid-0_xxxx.mp4: no such file" in missing
    assert "vid-1_xxxx: VideoError" in cut
    assert "1 of 3 videos of videomme are missing" in done.stdout
    lines = (runs["videomme"] / "errors.jsonl").read_text().splitlines()
    errors = [json.loads(line) for line in lines]
    assert [error["questions"] for error in errors] == [3, 3]


def test_headlines_follow_the_protocols(swept):
    _, runs = swept
    units = {name: points(load(runs[name]))[0].questions for name in runs}
    assert units == {"videomme": 3, "mlvu": 15, "longvideobench": 6, "vnbench": 9, "lvbench": 4}
    parts = {row.task for row in points(load(runs["vnbench"]), by_task=True)}
    assert {"ret_edit1", "ability=retrieval", "ability=counting", "duration=over_60s"} <= parts
    for record in load(runs["longvideobench"]):
        answer = record.answer
        assert (answer.guess is None) == (answer.parsed is not None)
        letter = answer.parsed or answer.guess
        assert answer.correct == float(letter == record.question.answer)


def test_a_short_answer_is_warned_of(swept):
    done, _ = swept
    assert (
        "max_new_tokens=4, but the protocol official of vnbench lets a model write" in done.stdout
    )


# --- in this process -----------------------------------------------------------------------------


def go(folder, benchmark, selectors=None, family="llava_onevision"):
    config = {"benchmark": {"name": benchmark.name, "shard": "left out of the identity"}}
    values = settings(
        run_id=identity(config),
        frames=6,
        chunk_frames=2,
        levels=level_specs(2, 8),
        max_new_tokens=3,
        top_k=(1,),
        pinned=(),
    )
    levels = {"low": Level(ToMe(), 2), "high": Level(ToMe(), 8)}
    info = describe(values.run_id, config, "cpu", "a processor", 1)
    chosen = selectors or {"none": SelectNone()}
    model = ours(family)
    return runner.run(values, benchmark, lambda: model, levels, chosen, folder, info, NoTracker())


def test_another_family_answers_with_subtitles_of_its_frames(disk, tmp_path, monkeypatch):
    model, asked = ours("llava_onevision"), []
    question = model.question

    def heard(text):
        asked.append(text)
        return question(text)

    monkeypatch.setattr(model, "question", heard)
    done = go(tmp_path, videomme(str(disk / "videomme"), subtitles=True))
    assert len(done.records) == 3 and len(done.errors) == 2
    # Six frames spread over twelve seconds see the first and the last text.
    assert all("Hello and welcome.\nThank you for watching.\nSelect" in text for text in asked)
    assert {record.condition.benchmark for record in done.records} == {"videomme_w_subtitle"}


def test_the_four_tries_of_a_video_share_its_prefill_and_its_truth(disk, tmp_path):
    vnb = vnbench(str(disk / "vnbench"), tasks=["ret_edit1", "cnt_edit2"])
    done = go(tmp_path, vnb, {"oracle": OracleSelector()})
    assert len(done.records) == 8
    # Six frames over twelve seconds, two a chunk: chunks begin at 0, 4.5 and 9 seconds.
    for kind, chunks in (("ret_edit1", (1,)), ("cnt_edit2", (0, 1))):
        tries = [record for record in done.records if record.question.task == kind]
        assert {record.question.gt_chunks for record in tries} == {chunks}
        assert len({record.seconds["prefill"] for record in tries}) == 1
        assert {record.question.group for record in tries} == {tries[0].video.video_id}
    (point,) = points(done.records)
    wrong = {r.video.video_id for r in done.records if not r.answer.correct}
    right = {r.video.video_id for r in done.records} - wrong
    assert (point.questions, point.accuracy) == (2, len(right) / 2)


def test_shards_side_by_side_are_the_whole_run(disk, tmp_path):
    def val(shard=None):
        return longvideobench(str(disk / "longvideobench"), shard=shard)

    whole = go(tmp_path / "whole", val()).records
    for shard in ("1/2", "2/2"):
        go(tmp_path / "shards" / shard.replace("/", "of"), val(shard))
    parts = records_under([tmp_path / "shards"])
    assert {r.key: deterministic(r) for r in parts} == {r.key: deterministic(r) for r in whole}
    assert [p.questions for p in points(parts)] == [p.questions for p in points(whole)] == [6]
    # The same folder for both is as good: what the first left is not forgotten.
    for shard in ("1/2", "2/2"):
        go(tmp_path / "one", val(shard))
    assert state(tmp_path / "one")["state"] == "done"
    assert state(tmp_path / "one")["records"] == state(tmp_path / "one")["expected"] == 6


class Killed(BaseException):
    """What nothing catches."""


def test_of_a_killed_worker_only_its_own_unanswered_videos_are_done_again(
    disk, tmp_path, monkeypatch
):
    """How a kill by SIGKILL leaves a folder is another test's, see tests/experiments/test_kill_sweep.py."""
    seen, opened, append = [], video.open_session, RecordWriter.append

    def counted(model, frames, *arguments):
        seen.append(frames.path)
        return opened(model, frames, *arguments)

    def part(shard):
        return mlvu(str(disk / "mlvu"), shard=shard)

    def work(shard):
        return go(tmp_path / shard.replace("/", "of"), part(shard))

    def lines(shard):
        return (tmp_path / shard.replace("/", "of") / "records.jsonl").read_bytes()

    def dying(self, record):
        append(self, record)
        if len(seen) == 2:  # the first answer about the second video is on disk
            raise Killed

    monkeypatch.setattr(video, "open_session", counted)
    work("2/2")
    of_another, left = lines("2/2"), {sample.video for sample in part("1/2").samples()}
    assert len(left) > 2 and not left & set(seen)
    seen.clear()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RecordWriter, "append", dying)
        work("1/2")
    answered, begun = lines("1/2"), list(seen)
    seen.clear()
    assert work("2/2").added == 0 and not seen and lines("2/2") == of_another
    again = work("1/2")
    assert again.added == len(part("1/2").samples()) - answered.count(b"\n") > 0
    assert seen == [begun[1], *(path for path in seen if path not in begun)] and len(seen) > 1
    assert {*begun, *seen} == left and lines("1/2").startswith(answered)
    assert {r.video.video_id for r in again.records} == {s.video_id for s in part("1/2").samples()}


def test_damaged_subtitles_leave_out_their_video(tmp_path):
    root = layouts.longvideobench(tmp_path / "set")
    (root / "subtitles" / "@user-1.part_en.json").unlink()
    done = go(tmp_path / "run", longvideobench(str(root), subtitles=True))
    assert len(done.records) == 4
    assert len(done.errors) == 1 and "DatasetError" in done.errors[0]


def test_a_shard_has_the_runs_id_and_a_folder_of_its_own(disk):
    asked = ("benchmark=vnbench", f"benchmark.root={disk / 'vnbench'}")
    configs = [composed([*asked, f"benchmark.shard={shard}"]) for shard in ("null", "1/2", "2/2")]
    assert len({identity(plain(config)) for config in configs}) == 1
    names = [run_folder(_root_=config) for config in configs]
    assert len(set(names)) == 3 and names[1].startswith("shard1of2-")


# --- x2l-data ------------------------------------------------------------------------------------


def check(*arguments):
    with pytest.raises(SystemExit) as exit_:
        data.main(["check", *arguments])
    return exit_.value.code


@pytest.mark.parametrize("name", [name for name in WRITE if name != "videomme"])
def test_a_complete_set_passes(disk, capsys, name):
    assert check(f"benchmark={name}", f"benchmark.root={disk / name}", "--decode", "all") == 0
    told = capsys.readouterr().out
    assert "0 cannot be read" in told and "fetch with" not in told


def test_what_is_missing_and_unreadable_is_listed_with_the_command(disk, capsys):
    root = disk / "videomme"
    asked = ("benchmark=videomme", f"benchmark.root={root}", "benchmark.subtitles=true")
    assert check(*asked, "--decode=all") == 1
    told = capsys.readouterr().out
    assert "questions   9 of 9, about 3 videos" in told
    assert "durations   short 3, medium 3, long 3" in told
    assert "subtitles   2 of 3 files, 0 missing or unreadable" in told
    assert "videos      2 of 3 are there, 2 opened, 1 cannot be read" in told
    assert f"  missing     {root / 'data' / 'vid-0_xxxx.mp4'}" in told
    assert f"  unreadable  {root / 'data' / 'vid-1_xxxx.mp4'}: " in told
    command = f"fetch with  hf download --repo-type dataset lmms-lab/Video-MME --local-dir {root}"
    assert command in told and "unzip" in told
    assert check(*asked, "--decode=none") == 1  # one is missing still
    assert "0 opened" in capsys.readouterr().out
    cut = "benchmark.durations=[medium]"  # there, but unreadable: not seen unless it is opened
    assert check(*asked, cut, "--decode=none") == 0
    assert check(*asked, cut) == 1


def test_a_video_with_a_damaged_end_is_unreadable(tmp_path, capsys):
    """Some downloads that stopped are filled up with zeros: the first frame is fine."""
    root = layouts.lvbench(tmp_path)
    path = root / "videos" / "28CIeC8cZks.mp4"
    whole = path.read_bytes()
    begin, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    middle = (begin + end) // 2
    path.write_bytes(whole[:middle] + bytes(end - middle) + whole[end:])
    assert check("benchmark=lvbench", f"benchmark.root={root}") == 1
    assert f"  unreadable  {path}: damaged" in capsys.readouterr().out


def test_missing_and_damaged_subtitles_are_listed(tmp_path, capsys):
    root = layouts.longvideobench(tmp_path / "lvb")
    asked = ("benchmark=longvideobench", f"benchmark.root={root}", "--decode=none")
    gone, damaged = (root / "subtitles" / f"@user-{number}.part_en.json" for number in (0, 1))
    gone.unlink()
    damaged.write_text('[{"start": 1.5, "end": 2.5, "line": "seconds as numbers"}]')
    assert check(*asked) == 0  # they are off
    capsys.readouterr()
    assert check(*asked, "benchmark.subtitles=true") == 1
    told = capsys.readouterr().out
    assert "subtitles   2 of 3 files, 2 missing or unreadable" in told
    assert f"  missing     {gone}" in told and f"  unreadable  {damaged}: subtitles" in told
    assert "fetch with  " in told

    mme = layouts.videomme(tmp_path / "mme")  # its second video has none, as published
    asked = ("benchmark=videomme", f"benchmark.root={mme}", "benchmark.subtitles=true")
    assert check(*asked, "--decode=none") == 0
    (mme / "subtitle" / "vid-2_xxxx.srt").write_bytes(bytes(100))
    assert check(*asked, "--decode=none") == 1
    assert "vid-2_xxxx.srt: subtitles cannot be read" in capsys.readouterr().out


def test_some_are_spread_over_the_set():
    assert data._spread([str(n) for n in range(100)], 4) == ["0", "25", "50", "75"]
    assert data._spread(["a", "b"], 20) == ["a", "b"]
    assert data._spread([], 20) == []


def test_answers_that_are_kept_back_are_told(tmp_path, capsys):
    layouts.longvideobench(tmp_path, split="test")
    asked = ("benchmark=longvideobench", f"benchmark.root={tmp_path}", "benchmark.split=test")
    assert check(*asked) == 0
    assert "answers     kept back" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("benchmark=vnbench", "benchmark.root=nowhere"), "no such folder; fetch vnbench with: hf"),
        (("benchmark=vnbanch",), "Could not find 'benchmark/vnbanch'"),
        (("benchmark=vnbench", "benchmark.rot=x"), "benchmark.rot: there is no such setting"),
        (("benchmark=vnbench", "benchmark.shard=9/4"), "benchmark.shard=9/4: must be i/n"),
        ((), "benchmark=needle: makes its own videos"),
    ],
)
def test_a_set_that_cannot_be_checked_is_one_error(capsys, arguments, message):
    assert check(*arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told
