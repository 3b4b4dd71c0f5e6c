import json

import pytest

from tests.synthetic import sweep
from x2l.collect import collect, find_runs, main
from x2l.records import RecordWriter
from x2l.runinfo import StatusFile

RESULTS = ("points.csv", "points_by_task.csv", "curve.png", "curve.pdf")


def make_sweep(folder, done=True):
    """One folder for each run of a small sweep."""
    for record in sweep(compressors=("tome",), videos=4, questions=3):
        run = folder / record.run_id
        if not run.exists():
            run.mkdir(parents=True)
            if done:
                StatusFile(run, record.run_id).write("done", records=1, expected=1)
        with RecordWriter(run / "records.jsonl") as writer:
            writer.append(record)
    return folder


def test_collect_is_idempotent(tmp_path):
    folder = make_sweep(tmp_path / "sweep")
    collect([folder], folder, tracker="none")
    before = {name: (folder / name).read_bytes() for name in RESULTS}
    collect([folder], folder, tracker="none")
    assert {name: (folder / name).read_bytes() for name in RESULTS} == before


def test_any_set_of_runs_once_each(tmp_path):
    folder = make_sweep(tmp_path / "sweep")
    runs = find_runs([folder, folder / "full", tmp_path])
    assert [run.name for run in runs] == ["full", "tome32.0"]
    one = collect([folder / "full"], tmp_path / "out", tracker="none")
    assert [row.control for row in one] == ["full"]


def test_console_script_prints_the_table_and_where_things_lie(tmp_path, capsys):
    folder = make_sweep(tmp_path / "sweep")
    main([str(folder), "--tracker", "none"])
    out = capsys.readouterr().out
    assert "all-high" in out and "95% interval" in out
    assert all(str(folder / name) in out for name in RESULTS)


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
    assert "full: running, or killed, 5 of 12 answers" in told
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
