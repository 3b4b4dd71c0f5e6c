"""The wheel that `pip install x2l` would bring: everything inside, and enough without the checkout.

It is built without a network, unpacked into a folder, and its commands run from an empty one; the packages it needs are
those of the environment of the tests. That no other is needed than pyproject.toml says is checked by the imports.
"""

import ast
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import x2l

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-index"]
SMALL = ["benchmark.videos=1", "benchmark.seconds=16", "benchmark.questions=1", "video.frames=16"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", folder, ROOT], check=True
    )
    (path,) = folder.glob("*.whl")
    return path


def below(folder, prefix):
    """Files of a folder of the checkout, as the wheel calls them."""
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_wheel_holds_package_and_configuration_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == below(ROOT / "x2l", "x2l") | below(ROOT / "conf", "x2l/conf")


@pytest.mark.slow
def test_its_commands_run_in_an_empty_folder(wheel, tmp_path):
    installed, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    (installed / "conf").mkdir(parents=True)  # another package's
    subprocess.run([*PIP, "install", *OFFLINE, "--target", installed, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(command, *arguments):
        done = subprocess.run(
            [installed / "bin" / command, *arguments],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("x2l", "--version") == f"x2l {x2l.__version__}\n"
    assert "1 pre-fills" in run("x2l-plan", *SMALL)
    run("x2l", *SMALL, "selector=retriever", "tracker=none", "hydra.run.dir=run")
    assert json.loads((work / "run/run.json").read_text())["commit"] is None  # of no checkout
    assert (work / "run/records.jsonl").read_text()
    (video,) = work.rglob("*.mp4")
    ask = [video, "What is the colour of the star?", "--", "selector.keys.heads=x2l_tiny_heads"]
    assert "re-loaded" in run("x2l-ask", *ask)
    run("x2l-report", "run")
    assert "</html>" in (work / "run/report.html").read_text()


def test_whatever_is_imported_is_declared():
    imported = {}
    for path in (ROOT / "x2l").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.partition(".")[0]: path for name in names}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["tensorboard"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    installed = packages_distributions()
    undeclared = {
        name: path
        for name, path in imported.items()
        if name not in sys.stdlib_module_names | {"x2l"}
        and declared.isdisjoint(map(canonicalize_name, installed[name]))
    }
    assert len(imported) > 20 and not undeclared
