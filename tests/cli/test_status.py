"""`x2l-status`: the screen of a sweep, and its exit status."""

import re
import subprocess
import sys
import time

import pytest

from tests.runs.test_sweep_status import RATIOS, change, run
from x2l.cli.status import main, table
from x2l.runs.job_status import announce
from x2l.runs.sweep_status import jobs


def test_progress_pace_and_time_left(tmp_path):
    announce(tmp_path, RATIOS)
    counts = dict(expected=100, missing=90, seconds=30.0, out_of_memory=0)
    run(tmp_path, "a", "done", RATIOS[0], records=100, added=90, settled=90, **counts)
    now = dict(records=40, added=30, settled=30, doing="answering")
    run(tmp_path, "b", "running", RATIOS[1], **now, **counts)
    told = table(jobs([tmp_path])).splitlines()
    rows = {line.split()[0]: re.split(r"  +", line) for line in told[1:4]}
    assert rows["a"] == ["a", "done", "100", "100", "100%", "180", "-"]
    assert rows["b"] == ["b", "running", "40", "100", "40%", "60", "1 min 00 s", "answering"]
    assert rows["ratio=32"] == ["ratio=32", "queued", "-", "-", "-", "-", "-"]
    # 60 answers of b, and 100 of the job that is to come, one a second
    assert told[5] == "3 jobs: 1 done, 1 running, 1 queued; 140 answers; about 2 min 40 s left"


def test_lines_fit_the_screen(tmp_path):
    run(tmp_path, "a", "failed", error="x")
    change(tmp_path / "a", error="word " * 50)
    lines = table(jobs([tmp_path]), width=60).splitlines()
    assert len(lines[1]) == 60 and lines[1].endswith("…")
    assert "word " * 49 in table(jobs([tmp_path]))


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("failed", 1)])
def test_the_exit_status_says_whether_all_is_done(tmp_path, capsys, state, code):
    run(tmp_path, "a", state, records=3, expected=3)
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path)])
    assert exit_.value.code == code
    assert f"1 jobs: 1 {state}; 3 answers" in capsys.readouterr().out


def test_watching_ends_when_no_job_is_going(tmp_path, capsys, monkeypatch):
    folder = run(tmp_path, "a", "running", records=1, expected=3)
    monkeypatch.setattr(time, "sleep", lambda _: change(folder, state="done", records=3))
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path), "--watch", "7"])
    told = capsys.readouterr().out
    assert exit_.value.code == 0 and told.index("running") < told.index("1 done; 3 answers")


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], [".", "--watch", "0"]])
def test_nothing_to_show_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2 and "error: " in capsys.readouterr().err


def test_it_starts_without_what_is_slow_to_import(tmp_path):
    code = (
        "import sys\n"
        "from x2l.cli.status import main\n"
        f"try:\n    main([{str(run(tmp_path, 'a', 'done').parent)!r}])\n"
        "except SystemExit:\n"
        "    print({'torch', 'hydra', 'omegaconf', 'numpy', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
