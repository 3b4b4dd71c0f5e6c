"""The same small sweep through every engine: the records of the basic launcher, also after a job was killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from experiments.speed.launchers import ENGINES, answers, command, environment, unavailable
from x2l.runs.job_status import read_status
from x2l.runs.records import RECORDS
from x2l.runs.sweep_status import find_runs, jobs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SWEEP = ["compressor=key_norm", "levels.high.ratio=8,16,32", "selector=[all,none,oracle,random]"]
SWEEP += ["top_k=[0,1]", "benchmark.videos=8", "benchmark.seconds=16", "video.frames=16"]
SWEEP += ["max_new_tokens=2", "tracker=none"]
JOBS, ANSWERS = 3, 3 * 8 * 6 * 6
PARALLEL = [engine for engine in ENGINES if engine != "basic"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where all sweeps of this module lie."""
    return tmp_path_factory.mktemp("launchers")


def start(engine, place, name, *more):
    """The sweep in a process of its own; what it prints goes to NAME.log."""
    own = [*SWEEP, f"paths.outputs={place}", *more]
    with (place / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            command(engine, place / name, own), cwd=place, env=environment(), stdout=log, stderr=log
        )


def finish(engine, place, name, *more):
    code = start(engine, place, name, *more).wait()
    assert code == 0, (place / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def expected(place):
    """Every answer, as the basic launcher gives it."""
    finish("basic", place, "basic")
    found = answers(place / "basic")
    assert len(found) == ANSWERS
    return found


@pytest.fixture(params=PARALLEL)
def engine(request):
    if reason := unavailable(request.param):
        pytest.skip(reason)
    return request.param


def check_whole(sweep, expected):
    """Nothing lost, nothing doubled, everything as the basic launcher has it."""
    runs = find_runs([sweep])
    assert len(runs) == JOBS
    assert {read_status(run)["state"] for run in runs} == {"done"}
    lines = [line for run in runs for line in (run / RECORDS).read_text().splitlines()]
    whole = [json.loads(line) for line in lines if line.endswith("}")]  # a kill may tear one
    names = ("run_id", "sample_id", "selector", "selector_config", "top_k")
    keys = Counter(tuple(str(values[name]) for name in names) for values in whole)
    assert set(keys.values()) == {1} and len(keys) == ANSWERS
    assert answers(sweep) == expected


def wait_for(condition, seconds=120):
    """What `condition` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def answering(sweep):
    """The folder of a job that has given a few answers and has many to give."""
    for run in find_runs([sweep]) if sweep.exists() else ():
        done, status = (run / RECORDS).exists() and (run / RECORDS).stat().st_size, read_status(run)
        if done and status is not None and status["state"] == "running":
            return run
    return None


def test_records_are_those_of_the_basic_launcher(engine, place, expected):
    name = f"whole-{engine}"
    finish(engine, place, name)
    check_whole(place / name, expected)
    if engine.startswith("submitit"):  # a log for every job, in the sweep
        logs = list((place / name / ".submitit").rglob("*_log.out"))
        told = f"{ANSWERS // JOBS} of {ANSWERS // JOBS} answers"
        assert len(logs) == JOBS and all(told in log.read_text() for log in logs)


def test_the_same_command_finishes_what_a_killed_job_left(engine, place, expected):
    name = f"killed-{engine}"
    driver = start(engine, place, name)
    run = wait_for(lambda: answering(place / name))
    os.kill(read_status(run)["pid"], signal.SIGKILL)
    wait_for(
        lambda: (
            not any(job.state in ("running", "queued") for job in jobs([place / name]))
            or driver.poll() is not None
        ),
        300,
    )
    try:
        driver.wait(60)
    except subprocess.TimeoutExpired:  # submitit asks sacct, which not every SLURM has
        assert engine == "submitit_slurm"
        driver.kill()
        driver.wait()
    if engine == "ray":  # it has started the job again by itself
        assert driver.returncode == 0
    else:
        assert driver.returncode != 0
        # Those that were not killed may go on without the driver.
        wait_for(lambda: not any(job.state == "running" for job in jobs([place / name])), 300)
        assert "killed" in {job.state for job in jobs([place / name])}
        if engine == "submitit_slurm":
            wait_for(lambda: not queue())
        finish(engine, place, name)
    check_whole(place / name, expected)


def test_a_ray_cluster_that_is_there_is_joined(place, expected):
    """It was started in another folder, where nothing of the sweep may then lie."""
    if reason := unavailable("ray"):
        pytest.skip(reason)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    ray = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2"]
    ray += [f"--port={port}", "--include-dashboard=false"]
    with (place / "head.log").open("w") as log:
        head = subprocess.Popen(ray, cwd=elsewhere, env=environment(), stdout=log, stderr=log)
    try:
        wait_for(lambda: "Ray runtime started" in (place / "head.log").read_text())
        more = [
            f"hydra.launcher.ray.init.address=127.0.0.1:{port}",
            "hydra.launcher.ray.init.num_cpus=null",
        ]
        finish("ray", place, "joined", *more, "paths.outputs=.", "hydra.sweep.dir=joined")
    finally:
        head.terminate()
        head.wait()
    check_whole(place / "joined", expected)
    assert not list(elsewhere.iterdir())


def queue():
    """Jobs of SLURM that wait or run, by number."""
    done = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_job_that_runs_out_of_time_is_queued_again_and_goes_on(place, expected):
    """As SLURM does it: USR2 a while before the end. SLURM then waits for two minutes."""
    if reason := unavailable("submitit_slurm"):
        pytest.skip(reason)
    sweep = place / "requeued"
    driver = start("submitit_slurm", place, "requeued", "hydra.launcher.timeout_min=5")
    run = wait_for(lambda: answering(sweep))
    number = slurm_job(read_status(run)["pid"])
    subprocess.run(["scancel", number, "--signal=USR2"], check=True)
    wait_for(lambda: read_status(run)["state"] == "interrupted")
    before = len((run / RECORDS).read_text().splitlines())
    assert 0 < before < ANSWERS // JOBS
    assert driver.wait(400) == 0
    check_whole(sweep, expected)
    shown = subprocess.run(
        ["scontrol", "-o", "show", "job", number], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"Restarts=1\b", shown)
    info = json.loads((run / "run.json").read_text())
    assert len(info["sessions"]) == 2


def slurm_job(pid):
    """The number of the SLURM job that a process of this machine belongs to."""
    told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return (
        next(line for line in told if line.startswith(b"SLURM_JOB_ID=")).partition(b"=")[2].decode()
    )
