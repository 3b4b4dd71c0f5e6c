"""status.json: replaced in one step, alive while the job is, and true about how it ended."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from x2l.runs import job_status as jobstatus
from x2l.runs.job_status import StatusFile, alone, read_status


def test_it_is_replaced_in_one_step(tmp_path, monkeypatch):
    status = StatusFile(tmp_path, "abc")
    status.write("running", records=1)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        status.write("done", records=2)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(-1), "interrupted"),  # a cluster's time-out, to be started again
        (ValueError("no such thing"), "failed"),
    ],
)
def test_however_a_job_ends_is_written_with_what_it_had_done(tmp_path, error, state):
    status = StatusFile(tmp_path, "abc", ["a=1"])
    with pytest.raises(type(error)), status.kept(), status.kept():
        assert read_status(tmp_path)["state"] == "running"
        status.count(records=3)
        raise error
    values = read_status(tmp_path)
    assert (values["state"], values["records"]) == (state, 3)
    if state == "failed":
        assert values["error"] == "ValueError: no such thing" and "Traceback" in values["traceback"]
    with StatusFile(tmp_path, "abc", ["a=1"]).kept():  # begun again: the old error is gone
        again = read_status(tmp_path)
        assert "error" not in again and again["records"] == 3 and again["overrides"] == [["a=1"]]


def test_a_silent_job_gives_signs_of_life_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(jobstatus, "BEAT", 0.01)
    touched = threading.Event()
    real = os.utime
    monkeypatch.setattr(os, "utime", lambda path: (real(path), touched.set()))
    status = StatusFile(tmp_path, "abc")
    before = threading.active_count()
    with status.kept():
        assert touched.wait(5)
    assert threading.active_count() == before


def test_progress_is_told_now_and_then_and_never_lost(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(jobstatus.time, "monotonic", lambda: clock[0])
    status = StatusFile(tmp_path, "abc")
    status.write("running", records=0)
    for number in range(1, 6):
        clock[0] += jobstatus.TELL / 4
        status.tell(records=number)
    assert read_status(tmp_path)["records"] == 4
    status.write("done")
    assert read_status(tmp_path)["records"] == 5


def test_requests_that_share_a_folder_are_all_remembered_but_not_those_of_another_run(tmp_path):
    for run_id, override in (("old", "x=0"), ("abc", "a=1"), ("abc", "a=2"), ("abc", "a=1")):
        StatusFile(tmp_path, run_id, [override]).write("done", records=1)
    assert read_status(tmp_path)["overrides"] == [["a=2"], ["a=1"]]


def test_a_second_job_in_a_folder_waits_until_the_first_has_ended(tmp_path, caplog):
    order, begun = [], threading.Event()

    def second():
        begun.set()
        with alone(tmp_path):
            order.append("second")

    waiting = threading.Thread(target=second)
    StatusFile(tmp_path, "abc").write("running")
    with alone(tmp_path):
        waiting.start()
        assert begun.wait(5)
        latest = time.monotonic() + 10
        while "waiting until it has ended" not in caplog.text and time.monotonic() < latest:
            time.sleep(0.001)
        order.append("first")
    waiting.join(5)
    assert order == ["first", "second"]
    assert f"process {os.getpid()} on " in caplog.text


FORKING = """
import os, sys, time
from pathlib import Path
from x2l.runs.job_status import alone
with alone(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_the_lock_ends_with_its_process_even_if_a_forked_child_lives_on(tmp_path):
    job = subprocess.Popen([sys.executable, "-c", FORKING, str(tmp_path)], stdout=subprocess.PIPE)
    child = int(job.stdout.readline())
    try:
        with (tmp_path / ".lock").open("w") as file:
            with pytest.raises(BlockingIOError):  # the child has closed its own, not unlocked it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            job.kill()
            job.wait()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(child, 0)
    finally:
        job.kill()
        job.wait()
        job.stdout.close()
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told(tmp_path, caplog, monkeypatch, code):
    def unsupported(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with alone(tmp_path), alone(tmp_path):
        assert "give it to one job at a time" in caplog.text
