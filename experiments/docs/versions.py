"""Tests of parity and engine in environments with other versions of transformers and torch, and docs/versions.md.

    python -m experiments.docs.versions                     # every case: minutes to install, minutes to test, each
    python -m experiments.docs.versions transformers-5.24   # some of them; the others keep their results
    python -m experiments.docs.versions --page              # the page alone, from the results

Each case has an environment of its own under `--work`, which is kept and found again: what pyproject.toml asks for in
the versions of constraints.txt, but for the packages that the case names. Tests run with warnings as errors, as always.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from x2l.runs.run_info import now, processor_name, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "versions"
PAGE = ROOT / "docs" / "versions.md"
TESTS = ("tests/engine", "tests/models/test_attention.py", "tests/models/test_tiny_families.py")
TORCH = {"torch": "2.13.0", "torchvision": "0.28.0"}
CASES: Mapping[str, Mapping[str, str]] = {
    "transformers-5.24": {"transformers": "5.24.0", **TORCH},
    "transformers-5.22": {"transformers": "5.22.2", **TORCH},
    "transformers-5.21": {"transformers": "5.21.1", **TORCH},
    "torch-2.14": {"transformers": "5.23.0", "torch": "2.14.1", "torchvision": "0.29.1"},
}
# Whose versions are those that transformers or torch ask for.
FOLLOWING = ("huggingface_hub", "tokenizers", "safetensors", "triton", "setuptools")
HEAD = """# Versions

Written by `python -m experiments.docs.versions`; do not edit. All tests run with the versions of
[constraints.txt](../constraints.txt) ({usual}; Python 3.11). Each row below is an environment of its own with other
ones, in which the tests of the engine, of parity with stock transformers, of attention and of the tiny families ran,
warnings being errors; what failed was run once more, as some tests do not end in time on a busy machine. pip refuses
versions of transformers and torch that were not tried or failed; what differs between the others is in
[transformers_version.py](../x2l/models/transformers_version.py).

| transformers | torch | torchvision | Python | passed | at the second try | failed | skipped | commit | date |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |
"""


def usual() -> dict[str, str]:
    """Versions in constraints.txt of the packages that cases name."""
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {line[0]: line[1] for line in lines if line[0] in {"transformers", *TORCH}}


def requirements(pins: Mapping[str, str]) -> list[str]:
    """What x2l and its tests need, with some packages pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {line: Requirement(line).name for line in lines}
    kept = [line for line, name in names.items() if name not in pins and name != "x2l"]
    return [*kept, *(f"{name}=={version}" for name, version in pins.items())]


def constraints(pins: Mapping[str, str]) -> str:
    """Lines of constraints.txt that leave the pinned packages, and those that follow them, alone."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    free = {*pins, *FOLLOWING}
    return "\n".join(line for line in lines if line.partition("==")[0] not in free) + "\n"


def install(folder: Path, pins: Mapping[str, str]) -> Path:
    """Makes the environment unless it is there; its Python."""
    python, ready = folder / "bin" / "python", folder / "installed"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        (folder / "constraints.txt").write_text(constraints(pins))
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["-c", folder / "constraints.txt", *requirements(pins)]
        subprocess.run(command, check=True)
        ready.touch()
    return python


def run_tests(python: Path, work: Path) -> dict[str, Any]:
    """Runs the tests, and those that fail once more: on a busy machine some do not end in time.

    Returns:
        How many passed, failed both times and were skipped, which passed at the second try, and which failed with what.
    """
    start = time.monotonic()
    outcomes = _run(python, work, *TESTS)
    failed = {test for test, outcome in outcomes.items() if outcome[0] == "failed"}
    if failed:
        outcomes |= _run(python, work, "--last-failed", *TESTS)
    failures = {test: message for test, (state, message) in outcomes.items() if state == "failed"}
    states = [state for state, _ in outcomes.values()]
    return {
        **{state: states.count(state) for state in ("passed", "failed", "skipped")},
        "seconds": round(time.monotonic() - start),
        "at_second_try": sorted(failed - failures.keys()),
        "failures": failures,
    }


def _run(python: Path, work: Path, *arguments: str) -> dict[str, tuple[str, str]]:
    """Test -> passed, failed or skipped, and the first line of what it said."""
    report = work / "report.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-n0", "-q", f"--junitxml={report}", *arguments]
    command += ["-o", f"cache_dir={work / 'cache'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if not report.exists():
        raise RuntimeError(f"{python}: pytest wrote no report; see what it said above")
    return {
        f"{case.get('classname')}.{case.get('name')}": _outcome(case)
        for case in ElementTree.parse(report).iter("testcase")
    }


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for part in case:
        if part.tag in ("failure", "error"):
            message = (part.get("message") or "").partition("\n")[0]
            return "failed", message.partition(" Command ")[0]  # which holds paths of the machine
        if part.tag == "skipped":
            return "skipped", ""
    return "passed", ""


def result(name: str, work: Path) -> dict[str, Any]:
    """One case."""
    python = install(work / name, CASES[name])
    asked = "import platform; print(platform.python_version())"
    version = subprocess.run(
        [python, "-c", asked], check=True, capture_output=True, text=True
    ).stdout.strip()
    commit = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=7"]
    return {
        "pins": CASES[name],
        "python": version,
        "commit": subprocess.run(commit, check=True, capture_output=True, text=True).stdout.strip(),
        "date": now(),
        "processor": processor_name(),
        **run_tests(python, work / name),
    }


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/versions.md."""
    text = HEAD.format(usual=", ".join(f"{name} {version}" for name, version in usual().items()))
    for name in CASES:
        if (one := results.get(name)) is None:
            continue
        cells = [*(one["pins"][package] for package in ("transformers", "torch", "torchvision"))]
        cells += [one["python"], one["passed"], len(one["at_second_try"])]
        cells += [one[field] for field in ("failed", "skipped", "commit")]
        text += f"| {' | '.join(map(str, cells))} | {one['date'][:10]} |\n"
    if untried := [name.replace("-", " ") for name in CASES if name not in results]:
        text += f"\nNot tried yet, so refused: {', '.join(untried)}.\n"
    for name in CASES:
        failures = results.get(name, {"failures": {}})["failures"]
        alike: dict[str, list[str]] = {}
        for test, message in failures.items():
            alike.setdefault(re.sub(r"\d+", "N", message), []).append(test)
        for message, tests in alike.items():
            text += f"\n{name.replace('-', ' ')}, {len(tests)} failed, as `{tests[0]}`: {message.rstrip(':')}\n"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs cases, writes results and page; 1 if a test failed in one of these cases."""
    parser = argparse.ArgumentParser(
        prog="experiments.docs.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all, if none is given")
    parser.add_argument("--work", type=Path, default=Path("outputs/versions"))
    parser.add_argument("--page", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in [] if options.page else options.cases or CASES:
        one = result(name, options.work.resolve())
        write_json(RESULTS / f"{name}.json", one)
        failed += one["failed"]
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    PAGE.write_text(page(results))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
