"""The script that tests other versions of transformers and torch, and what was made of its results."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from experiments.docs.versions import (
    CASES,
    PAGE,
    RESULTS,
    ROOT,
    constraints,
    page,
    requirements,
    run_tests,
    usual,
)

FOUND = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}


def test_the_page_is_made_of_the_results():
    assert PAGE.read_text() == page(FOUND)


@pytest.mark.parametrize("name", sorted(FOUND))
def test_pyproject_allows_the_versions_that_pass_and_no_other(name):
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = {(one := Requirement(line)).name: one.specifier for line in lines}
    pins = FOUND[name]["pins"]
    inside = all(version in allowed[package] for package, version in pins.items())
    assert inside == (FOUND[name]["failed"] == 0), pins


def test_pyproject_allows_no_version_in_which_not_all_passed():
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (allowed,) = (
        one.specifier for line in lines if (one := Requirement(line)).name == "transformers"
    )
    passed = [one["pins"]["transformers"] for one in FOUND.values() if not one["failed"]]
    versions = [usual()["transformers"], *passed]
    tried = {tuple(map(int, version.split(".")[:2])) for version in versions}
    assert all(((5, minor) in tried) == (f"5.{minor}.9" in allowed) for minor in range(40))
    assert "4.57.6" not in allowed and "6.0.0" not in allowed


def test_an_environment_differs_by_what_is_pinned():
    pins = CASES["transformers-5.24"]
    lines = requirements(pins)
    assert "transformers==5.24.0" in lines and not any(line.startswith("x2l") for line in lines)
    assert len([line for line in lines if Requirement(line).name in pins]) == len(pins)
    assert "numpy==" in constraints(pins) and "transformers==" not in constraints(pins)


def test_what_fails_is_run_again(tmp_path, monkeypatch):
    """A test that fails once, one that always does, one that is skipped and one that passes."""
    (tmp_path / "test_some.py").write_text(
        "import pathlib, pytest\n"
        "once = pathlib.Path(__file__).with_name('once')\n"
        "def test_once():\n    there = once.exists()\n    once.touch()\n    assert there\n"
        "def test_never():\n    raise ValueError('so it is\\nand more')\n"
        "def test_skipped():\n    pytest.skip('no')\n"
        "def test_good():\n    pass\n"
    )
    (tmp_path / "work").mkdir()
    monkeypatch.setattr("experiments.docs.versions.ROOT", tmp_path)
    monkeypatch.setattr("experiments.docs.versions.TESTS", ("test_some.py",))
    found = run_tests(Path(sys.executable), tmp_path / "work")
    assert (found["passed"], found["failed"], found["skipped"]) == (2, 1, 1)
    assert found["at_second_try"] == ["test_some.test_once"]
    assert found["failures"] == {"test_some.test_never": "ValueError: so it is"}
