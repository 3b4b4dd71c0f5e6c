"""What every job of a sweep says of itself, and what is known of those that say nothing."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from x2l.runs import processes
from x2l.runs.job_status import STATUS, StatusFile, announce, read_status
from x2l.runs.processes import lives, this_process
from x2l.runs.run_info import write_json
from x2l.runs.sweep_status import SILENT, jobs, unfinished

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are seen in /proc")
RATIOS = [["compressor=tome", f"ratio={ratio}"] for ratio in (8, 16, 32)]


def run(sweep, name, state, overrides=("compressor=tome", "ratio=8"), **counts):
    folder = sweep / name
    folder.mkdir(parents=True)
    status = StatusFile(folder, name, overrides)
    status.write(state, **counts)
    return folder


def change(folder, **values):
    write_json(folder / STATUS, read_status(folder) | values)


def states(sweep):
    return {job.name: job.state for job in jobs([sweep])}


def ended():
    """The name of a process that is gone."""
    code = "from x2l.runs.processes import this_process; print(this_process())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def gone():
    return ended()


def test_a_process_lives_until_it_ends_even_if_nobody_has_noticed(gone):
    assert lives(this_process()) is True and lives(gone) is False
    assert lives(None) is None and lives("another-boot/pid:[1]/1/1") is None
    child = subprocess.Popen(["true"])
    latest = time.monotonic() + 10
    while processes._start(child.pid) is not None and time.monotonic() < latest:
        time.sleep(0.001)
    assert processes._start(child.pid) is None and child.returncode is None  # a zombie has ended
    assert child.wait() == 0
    machine, pid, start = this_process().rsplit("/", 2)
    assert lives(f"{machine}/{pid}/{float(start) + 0.01:.2f}") is False  # the number was given anew


def test_setting_the_clock_ends_no_process(monkeypatch):
    name, real = this_process(), psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: real() + 3600)
    assert lives(name)


def test_what_has_not_begun_is_queued_while_the_sweep_goes_on(tmp_path, gone):
    announce(tmp_path, RATIOS)
    run(tmp_path, "first", "running")
    assert states(tmp_path) == {"first": "running", "ratio=16": "queued", "ratio=32": "queued"}
    line = json.loads((tmp_path / "sweep.jsonl").read_text())
    write_json(tmp_path / "sweep.jsonl", {})
    (tmp_path / "sweep.jsonl").write_text(json.dumps(line | {"process": gone}) + "\n")
    assert states(tmp_path)["ratio=16"] == "not-started"
    announce(tmp_path, RATIOS[1:2])  # started again for one of them
    assert states(tmp_path) == {"first": "running", "ratio=16": "queued", "ratio=32": "not-started"}


def test_what_failed_is_queued_again_until_its_turn(tmp_path):
    folder = run(tmp_path, "first", "failed", error="x")
    done = run(tmp_path, "second", "done", RATIOS[1])
    for one in (folder, done):
        change(one, updated="2020-01-01T00:00:00+0000")
    assert states(tmp_path) == {"first": "failed", "second": "done"}
    announce(tmp_path, RATIOS[:2])
    assert states(tmp_path) == {"first": "queued", "second": "done"}
    change(folder, updated="2999-01-01T00:00:00+0000", state="failed")
    assert states(tmp_path)["first"] == "failed"


def test_a_killed_job_is_told_from_one_that_runs(tmp_path, gone):
    for name, process in (
        ("here", this_process()),
        ("dead", gone),
        ("elsewhere", "another/pid:[1]/1/1"),
    ):
        change(run(tmp_path, name, "running"), process=process)
    assert states(tmp_path) == {"here": "running", "dead": "killed", "elsewhere": "running"}
    old = time.time() - SILENT - 1
    for name in ("here", "elsewhere"):
        os.utime(tmp_path / name / STATUS, (old, old))
    assert states(tmp_path) == {"here": "silent", "dead": "killed", "elsewhere": "killed"}


def test_every_unfinished_job_is_one_line_with_its_reason(tmp_path):
    run(tmp_path, "a", "failed", error="ConfigError: top_k=99:\n  too many")
    change(tmp_path / "a", error="ConfigError: top_k=99:\n  too many")
    errors = ["v1: VideoError: empty", "v2: VideoError: empty"]
    run(tmp_path, "b", "done-with-errors", records=5, expected=9, errors=errors, out_of_memory=2)
    run(tmp_path, "c", "done", records=9, expected=9)
    assert unfinished(jobs([tmp_path])) == [
        "a: failed, 0 of ? answers: top_k=99: too many; run it again, or remove the folder",
        "b: done-with-errors, 5 of 9 answers: left out: v1: VideoError: empty, and 1 more; 2 answers out of memory",
    ]
