"""Ctrl-C and a failing decoder end a pre-fill; the long version is experiments/speed/interrupt.py itself."""

import json
from pathlib import Path

import pytest

from tests import fork_server

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_of_each(tmp_path):
    done = fork_server.run(
        *("experiments.speed.interrupt", "--tries", "3", "--out", tmp_path),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "interrupt.json").read_text())
    for kind in ("Ctrl-C", "error of the decoder"):
        assert found[kind]["ends"] == {"clean": 3}, found
