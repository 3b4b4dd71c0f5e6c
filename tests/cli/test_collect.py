import json

import pytest

from tests.synthetic import record, sweep
from x2l.analysis.collect import collect
from x2l.cli.collect import main
from x2l.runs.job_status import StatusFile
from x2l.runs.records import RecordWriter
from x2l.runs.sweep_status import find_runs

RESULTS = ("points.csv", "points_by_task.csv", "curve.png", "curve.pdf")


def make_sweep(folder, done=True):
    """One folder for each run of a small sweep."""
    for one in sweep(compressors=("tome",), videos=4, questions=3):
        run = folder / one.condition.run_id
        if not run.exists():
            run.mkdir(parents=True)
            if done:
                StatusFile(run, one.condition.run_id).write("done", records=1, expected=1)
        with RecordWriter(run / "records.jsonl") as writer:
            writer.append(one)
    return folder


class Told:
    """A tracker of somebody's own."""

    def track_sweep(self, tables, picture, files):
        self.sweep = len(tables.rows), picture.name, [file.name for file in files]
        return True


def test_collect_is_idempotent_and_any_tracker_takes_the_sweep(tmp_path):
    folder, tracker = make_sweep(tmp_path / "sweep"), Told()
    rows = collect([folder], folder, tracker)
    assert tracker.sweep == (len(rows), "curve.png", list(RESULTS))
    before = {name: (folder / name).read_bytes() for name in RESULTS}
    collect([folder], folder)
    assert {name: (folder / name).read_bytes() for name in RESULTS} == before


def test_any_set_of_runs_once_each(tmp_path):
    folder = make_sweep(tmp_path / "sweep")
    runs = find_runs([folder, folder / "full", tmp_path])
    assert [run.name for run in runs] == ["full", "tome32.0"]
    one = collect([folder / "full"], tmp_path / "out")
    assert [row.condition.baseline for row in one] == ["full"]


def test_console_script_prints_the_table_and_where_things_lie(tmp_path, capsys):
    folder = make_sweep(tmp_path / "sweep")
    main([str(folder), "--tracker", "none"])
    out = capsys.readouterr().out
    assert "all-high" in out and "95% interval" in out
    assert all(str(folder / name) in out for name in RESULTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tracker", "nowhere"], "tracker/nowhere'; Available options in 'tracker': none"),
        (["--tracker", "none", "--mode", "online"], "tracker.mode: there is no such setting"),
        (["--mode", "online"], "tracker.mode='online': needs a key of W&B"),
    ],
)
def test_a_tracker_that_cannot_work_is_one_line_before_anything_is_written(
    tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody has logged in
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = make_sweep(tmp_path / "sweep")
    with pytest.raises(SystemExit) as exit_:
        main([str(folder), *options])
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and told.count("\n") == 1
    assert not (folder / "points.csv").exists()


def test_runs_that_are_not_done_are_named(tmp_path, capsys):
    folder = make_sweep(tmp_path / "sweep")
    (folder / "dead").mkdir()
    StatusFile(folder / "dead", "x").write("failed", error="ValueError: no such thing")
    StatusFile(folder / "full", "full").write("running", records=5, expected=12)
    with pytest.raises(SystemExit) as exit_:
        main([str(folder), "--tracker", "none"])
    assert exit_.value.code == 1
    told = capsys.readouterr().err
    dead = "dead: failed, 0 of ? answers: ValueError: no such thing; run it again, or remove the folder"
    assert dead in told
    assert "full: running, 5 of 12 answers" in told
    assert "tome" not in told
    assert (folder / "curve.png").exists()


@pytest.mark.parametrize("made", [True, False])
def test_nothing_to_collect_is_one_line(tmp_path, capsys, made):
    folder = tmp_path / "empty"
    if made:
        folder.mkdir()
    with pytest.raises(SystemExit) as exit_:
        main([str(folder)])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: folders={folder}: ")


def test_status_is_json_that_tools_can_read(tmp_path):
    StatusFile(tmp_path, "x").write("done", records=1)
    values = json.loads((tmp_path / "status.json").read_text())
    assert values["state"] == "done" and values["run_id"] == "x" and "updated" in values


@pytest.mark.parametrize(
    ("changes", "figure"),
    [
        (dict(parsed=None, correct=None), True),  # none could be read: all wrong
        (dict(parsed=None, correct=1.0, guess="A", unparsed="guessed"), True),
        (dict(parsed=None, correct=None, unparsed="left out"), False),
        (dict(answer=None, correct=None), False),
    ],
)
def test_answers_that_do_not_count_cost_the_figure_at_most(tmp_path, capsys, changes, figure):
    (tmp_path / "curve.png").write_text("an older figure")
    StatusFile(tmp_path, "x").write("done", records=2, expected=2)
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for number in range(2):
            writer.append(record(sample_id=str(number), video_id=str(number), **changes))
    main([str(tmp_path), "--tracker", "none"])
    told = capsys.readouterr()
    assert "95% interval" in told.out and str(tmp_path / "points_by_task.csv") in told.out
    assert (str(tmp_path / "curve.png") in told.out) == figure == (tmp_path / "curve.png").exists()
    assert ("warning: no figure: points: nothing to draw" in told.err) != figure
