"""Executes every shell and Python block of README and docs, in order, each in a fresh shell in a copy of the checkout.

    python -m experiments.docs.run_blocks            # all: .venv, demo, tests, sweeps; an hour or so
    python -m experiments.docs.run_blocks --list     # what would run, and what is left out and why
    python -m experiments.docs.run_blocks README.md --without "make test"

Blocks are what stands between ```sh or ```python and ```; what stands in ```py is a file that the text says where to
put. A shell of a page beside the README has the virtual environment active, as the README says that commands get on the
PATH; so has every Python. The shell starts without the caller's variables, stops at the first command that fails, and
its output goes to a log. Lines that need what a checkout does not bring are in `LEFT_OUT`; of those in `SERVES` it is
seen that they still serve after a while.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.runs.run_info import now, processor_name, write_json

ROOT = Path(__file__).parents[2]
FIRST = ("README.md", "CONTRIBUTING.md")
# Page, how the line begins, and what it needs.
LEFT_OUT = (
    # Checks of a contributor: the first README block has run them already, or ci does.
    ("CONTRIBUTING.md", "make check", "looks at the sources, runs nothing that a user runs"),
    ("CONTRIBUTING.md", "make test", "README.md has run it"),
    ("CONTRIBUTING.md", "make demo", "README.md has run it"),
    # Fails on purpose: it shows what a sweep of bad jobs says.
    ("docs/failures.md", "x2l --config-dir my", "a method and a checkpoint that are not there"),
    # Clusters, clouds and weights of gigabytes.
    (
        "docs/launchers/ray.md",
        "x2l -m hydra/launcher=ray hydra.launcher.ray.remote",
        "weights, GPUs",
    ),
    ("docs/launchers/ray.md", "x2l -m hydra/launcher=ray hydra.launcher.ray.init", "a cluster"),
    ("docs/launchers/submitit_slurm.md", "x2l -m", "weights, a cluster"),
    ("docs/launchers/skypilot.md", "for i in", "an account of a cloud"),
    ("docs/launchers/skypilot.md", "sky jobs", "an account of a cloud"),
    # Accounts.
    ("docs/tracking.md", "wandb sync", "an account of W&B"),
    ("docs/tracking.md", "x2l -m experiment=demo tracker.mode=online", "a key of W&B"),
    ("docs/tracking.md", "x2l-collect outputs/sweeps/demo --mode online", "a key of W&B"),
)
# Page, and how a command begins that goes on until it is stopped.
SERVES = (
    ("docs/tracking.md", "tensorboard --logdir"),
    ("docs/tracking.md", "x2l-report outputs/sweeps/demo --serve"),
)
SERVING = 60  # seconds, then it is interrupted; 124 is the status of `timeout` for that
KEPT = ("HOME", "PATH", "LANG", "TERM", "TMPDIR")  # of the caller's variables, and PIP_*
ACTIVATE = "source .venv/bin/activate"


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        page: relative to the checkout.
        line: where it begins, from 1.
        commands: whole ones, those that go on over a line's end joined; of Python the one that runs it.
    """

    page: str
    line: int
    commands: tuple[str, ...]
    python: bool = False

    @property
    def name(self) -> str:
        """Of its log, and what a message calls it."""
        return f"{self.page}:{self.line}"

    def left_out(self, without: Sequence[str] = ()) -> dict[str, str]:
        """Commands that are not run, and what they need.

        Args:
            without: how commands begin that are not wanted this time.
        """
        of_page = [(start, needs) for page, start, needs in LEFT_OUT if page == self.page]
        of_page += [(start, "nothing: left out by --without") for start in without]
        return {
            command: needs
            for command in self.commands
            for start, needs in of_page
            if not self.python and command.startswith(start)
        }

    def script(self, without: Sequence[str] = ()) -> str:
        """What the shell runs; empty where all is left out."""
        left_out = self.left_out(without)
        commands = [self._ended(command) for command in self.commands if command not in left_out]
        if not commands:
            return ""
        first = [ACTIVATE] if self.python or self.page not in FIRST else []
        return "\n".join(["set -eo pipefail", *first, *commands, ""])

    def _ended(self, command: str) -> str:
        if not any(command.startswith(start) for page, start in SERVES if page == self.page):
            return command
        command = command.partition(" #")[0].strip()
        return f"timeout --signal=INT {SERVING} {command} || test $? = 124"


def blocks(root: Path) -> list[Block]:
    """Those of README, CONTRIBUTING and docs, in that order."""
    pages = [root / name for name in FIRST if (root / name).exists()]
    fenced = re.compile(r"^```(sh|bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    found = []
    docs = sorted((root / "docs").rglob("*.md"))
    pages += [page for page in docs if page.parent.name != "notebooks"]  # which tests run
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in fenced.finditer(text):
            python = match[1] == "python"
            if python:
                commands: tuple[str, ...] = (f"python -c {shlex.quote(match[2])}",)
            else:
                lines = match[2].replace("\\\n", " ").splitlines()
                commands = tuple(line for line in lines if line.strip() and line[0] != "#")
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page.relative_to(root).as_posix(), line, commands, python))
    return found


def copy_of_checkout(root: Path, to: Path) -> None:
    """Copies what git knows or would take; no outputs, no environment."""
    for name in filter(
        None, _git(root, "ls-files", "-z", "-c", "-o", "--exclude-standard").split("\0")
    ):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


def run(script: str, folder: Path, log: Path, limit: float) -> str:
    """Runs a script in a fresh shell; `ok`, or how it failed."""
    kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith("PIP_")}
    with log.open("w") as file:
        try:
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-c", script],
                cwd=folder,
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"FAILED: not done after {limit:g} s"
    return "ok" if done.returncode == 0 else f"FAILED: exit status {done.returncode}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all blocks; 1 if one fails."""
    parser = argparse.ArgumentParser(
        prog="experiments.docs.run_blocks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pages", nargs="*", help="e.g. README.md; all, if none is given")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument(
        "--work", type=Path, help="folder of the copy, which is kept; default: a new one"
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a block may take")
    parser.add_argument(
        "--without", action="append", default=[], help="how a command begins that is not to be run"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file of what was run and left out; what it says of other pages stays",
    )
    options = parser.parse_args(arguments)
    chosen = [block for block in blocks(ROOT) if not options.pages or block.page in options.pages]
    left_out = [
        {"block": block.name, "command": command, "needs": needs}
        for block in chosen
        for command, needs in block.left_out(options.without).items()
    ]
    for line in left_out:
        print(f"{line['block']:40s} left out, needs {line['needs']}: {line['command'][:60]}")
    scripts = {block: block.script(options.without) for block in chosen}
    if options.list:
        print(*(f"{block.name}\n{script}" for block, script in scripts.items() if script), sep="\n")
        return 0
    folder = (options.work or Path(tempfile.mkdtemp(prefix="x2l-blocks-"))).resolve()
    copy_of_checkout(ROOT, folder)
    logs = folder / "block_logs"
    logs.mkdir(exist_ok=True)
    made = {"date": now(), "commit": _commit(), "processor": processor_name()}
    ran = []
    for block in filter(scripts.get, chosen):
        log = logs / f"{re.sub(r'[/:]', '_', block.name)}.log"
        start = time.perf_counter()
        state = run(scripts[block], folder, log, options.limit)
        seconds = round(time.perf_counter() - start)
        ran.append({"block": block.name, "seconds": seconds, "state": state, **made})
        shown = "" if state == "ok" else f", see {log}"
        print(f"{block.name:40s} {seconds:6d} s  {state}{shown}", flush=True)
    good = sum(one["state"] == "ok" for one in ran)
    print(
        f"{good} of {len(ran)} blocks went well, {len(left_out)} commands left out; logs in {logs}"
    )
    if options.out is not None:
        pages = {block.page for block in chosen}
        write_json(options.out, _with_others(options.out, pages, ran, left_out))
    return 0 if good == len(ran) else 1


def _with_others(
    out: Path, pages: set[str], ran: list[dict[str, Any]], left_out: list[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """What was found this time, and what the file says of other pages."""
    before = json.loads(out.read_text()) if out.exists() else {"blocks": [], "left_out": []}
    found = {"blocks": ran, "left_out": left_out}
    return {
        kind: [line for line in before[kind] if line["block"].rpartition(":")[0] not in pages]
        + lines
        for kind, lines in found.items()
    }


def _commit() -> str:
    return _git(ROOT, "describe", "--always", "--dirty", "--abbrev=7").strip()


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout


if __name__ == "__main__":
    sys.exit(main())
