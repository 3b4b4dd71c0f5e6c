"""A sweep killed with SIGKILL loses and doubles nothing; the long version is experiments/speed/kill_sweep.py itself."""

import json
import shutil
from pathlib import Path

import pytest

from tests import fork_server
from tests.synthetic import record
from x2l.runs.job_status import StatusFile
from x2l.runs.records import RecordWriter

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_kills(tmp_path):
    out = tmp_path / "kills.json"
    small = ["benchmark.videos=2", "benchmark.seconds=16", "video.frames=16", "max_new_tokens=1"]
    small += ["levels.high.ratio=8,32", "compressor=key_norm", "selector=[none,oracle,random]"]
    done = fork_server.run(
        *("experiments.speed.kill_sweep", "--kills", "3"),
        *("--folder", tmp_path / "sweep", "--out", out, *small),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert (found["kills"], found["records"]) == (3, 2 * 2 * 6 * 3)
    wrong = ("lost", "doubled", "claimed_too_many", "differing")
    assert [found[name] for name in wrong] == [0, 0, 0, 0]
    assert found["states"].keys() <= {"killed", "none"}  # none: before anything was written


@pytest.fixture
def kill_sweep():
    from experiments.speed import kill_sweep

    return kill_sweep


def write(folder, *records, claimed=0):
    folder.mkdir(parents=True, exist_ok=True)
    StatusFile(folder, "r").write("running", records=claimed)
    with RecordWriter(folder / "records.jsonl") as writer:
        for one in records:
            writer.append(one)


def test_what_is_lost_doubled_torn_or_different_is_noticed(tmp_path, kill_sweep):
    """The check itself, on a folder where all of it has happened."""
    a, b, c = (record(sample_id=name) for name in "abc")
    write(tmp_path / "whole" / "run", a, b, c)
    write(tmp_path / "cut" / "run", a, b, b, claimed=9)
    with (tmp_path / "cut" / "run" / "records.jsonl").open("a") as file:
        file.write('{"run_id": "7')
    found = kill_sweep.found_after(tmp_path / "cut", 1.0, [c.key], {a.key, b.key, c.key})
    assert (found.lost, found.doubled, found.claimed_too_many, found.torn) == (1, 1, 6, 1)
    assert (found.answers, found.new, found.state) == (3, 1, "running")
    assert kill_sweep.differing(tmp_path / "cut", tmp_path / "whole") == 1
    shutil.copytree(tmp_path / "whole", tmp_path / "same")
    write(tmp_path / "same" / "run", record(sample_id="c", seconds_decode=9.0))  # only the time
    assert kill_sweep.differing(tmp_path / "same", tmp_path / "whole") == 0
    write(tmp_path / "same" / "run", record(sample_id="c", prediction="B"))
    assert kill_sweep.differing(tmp_path / "same", tmp_path / "whole") == 1
