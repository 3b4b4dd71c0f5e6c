"""Every script and command starts on its own: `--help`, in a process that has imported nothing of x2l before."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Scripts for environments that have more packages than the project's.
NEEDS = {"experiments.speed.one_shot": "kvpress", "experiments.docs.notebooks": "nbconvert"}


def scripts():
    """Modules that read a command line when they are run."""
    paths = [*ROOT.glob("experiments/**/*.py"), *ROOT.glob("x2l/cli/**/*.py")]
    run = [
        path
        for path in paths
        if "ArgumentParser" in (text := path.read_text()) and '__name__ == "__main__"' in text
    ]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in run}
    return sorted(name for name in names if name not in NEEDS or find_spec(NEEDS[name]))


def test_every_script_says_how_it_is_used():
    assert {"experiments.selection.language_bind", "x2l.cli.plan"} <= set(scripts())
    command = [sys.executable, "-m", "tests.script_help", *scripts()]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    wrong = {name: said for name, (status, said) in told.items() if status or "usage:" not in said}
    assert not wrong and set(told) == set(scripts())
