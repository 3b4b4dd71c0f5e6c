"""Executes every shell block of README and docs, in order, each in a fresh shell in a copy of the checkout.

    python -m experiments.docs.run_blocks            # all: .venv, demo, tests, sweeps; half an hour or so
    python -m experiments.docs.run_blocks --list     # what would run, and what is left out and why
    python -m experiments.docs.run_blocks README.md  # one page

Blocks are what stands between ```sh and ```. A shell of a page beside the README has the virtual environment active, as
the README says that commands get on the PATH. The shell starts without the caller's variables, stops at the first
command that fails, and its output goes to a log. Lines that need what a checkout does not bring are in `LEFT_OUT`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    # x2l is on no registry under this name; `make test-cluster` installs the extras from the checkout.
    ("docs/launchers/joblib.md", "pip install", "a published package"),
    ("docs/launchers/ray.md", "pip install", "a published package"),
    ("docs/launchers/submitit_local.md", "pip install", "a published package"),
    ("docs/launchers/submitit_slurm.md", "pip install", "a published package"),
    ("docs/launchers/joblib.md", "X2L_JOBS=4 x2l", "the extra joblib"),
    ("docs/launchers/submitit_local.md", "X2L_JOBS=2 x2l", "the extra slurm, and a GPU"),
    # Clusters and weights of gigabytes.
    (
        "docs/launchers/ray.md",
        "x2l -m hydra/launcher=ray hydra.launcher.ray.remote",
        "weights, GPUs",
    ),
    ("docs/launchers/ray.md", "x2l -m hydra/launcher=ray hydra.launcher.ray.init", "a cluster"),
    ("docs/launchers/submitit_slurm.md", "x2l -m", "weights, a cluster"),
    # Accounts, and a server that never ends.
    ("docs/tracking.md", "wandb sync", "an account of W&B"),
    ("docs/tracking.md", "x2l -m experiment=demo tracker.mode=online", "a key of W&B"),
    ("docs/tracking.md", "x2l-collect outputs/sweeps/demo --mode online", "a key of W&B"),
    ("docs/tracking.md", "tensorboard --logdir", "serves until it is stopped"),
    ("docs/tracking.md", "x2l -m experiment=demo tracker=tensorboard", "the extra tensorboard"),
    ("docs/tracking.md", "x2l-collect outputs/sweeps/demo --tracker", "the extra tensorboard"),
)
KEPT = ("HOME", "PATH", "LANG", "TERM", "TMPDIR")  # of the caller's variables, and PIP_*
ACTIVATE = "source .venv/bin/activate"


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        page: relative to the checkout.
        line: where it begins, from 1.
        commands: whole ones, those that go on over a line's end joined.
    """

    page: str
    line: int
    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its log, and what a message calls it."""
        return f"{self.page}:{self.line}"

    def left_out(self) -> dict[str, str]:
        """Commands that are not run, and what they need."""
        return {
            command: needs
            for command in self.commands
            for page, start, needs in LEFT_OUT
            if page == self.page and command.startswith(start)
        }

    def script(self) -> str:
        """What the shell runs; empty where all is left out."""
        left_out = self.left_out()
        commands = [command for command in self.commands if command not in left_out]
        if not commands:
            return ""
        first = [] if self.page in FIRST else [ACTIVATE]
        return "\n".join(["set -eo pipefail", *first, *commands, ""])


def blocks(root: Path) -> list[Block]:
    """Those of README, CONTRIBUTING and docs, in that order."""
    pages = [root / name for name in FIRST if (root / name).exists()]
    found = []
    for page in [*pages, *sorted((root / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(?:sh|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines = match[1].replace("\\\n", " ").splitlines()
            commands = tuple(line for line in lines if line.strip() and not line.startswith("#"))
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page.relative_to(root).as_posix(), line, commands))
    return found


def copy_of_checkout(root: Path, to: Path) -> None:
    """Copies what git knows or would take; no outputs, no environment."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


def run(block: Block, folder: Path, log: Path, limit: float) -> bool:
    """Runs a block in a fresh shell; whether it went well."""
    kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith("PIP_")}
    start = time.perf_counter()
    with log.open("w") as file:
        try:
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-c", block.script()],
                cwd=folder,
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
            state = "ok" if done.returncode == 0 else f"FAILED ({done.returncode}), see {log}"
        except subprocess.TimeoutExpired:
            state = f"FAILED (not done after {limit:.0f} s), see {log}"
    print(f"{block.name:40s} {time.perf_counter() - start:6.0f} s  {state}", flush=True)
    return state == "ok"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all blocks; 1 if one fails."""
    parser = argparse.ArgumentParser(prog="experiments.docs.run_blocks", description=__doc__)
    parser.add_argument("pages", nargs="*", help="e.g. README.md; all, if none is given")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument(
        "--work", type=Path, help="folder of the copy, which is kept; default: a new one"
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a block may take")
    options = parser.parse_args(arguments)
    chosen = [block for block in blocks(ROOT) if not options.pages or block.page in options.pages]
    for block in chosen:
        for command, needs in block.left_out().items():
            print(f"{block.name:40s} left out, needs {needs}: {command[:60]}")
    if options.list:
        print(*(f"{block.name}\n{block.script()}" for block in chosen if block.script()), sep="\n")
        return 0
    folder = options.work or Path(tempfile.mkdtemp(prefix="x2l-blocks-"))
    copy_of_checkout(ROOT, folder)
    logs = folder / "block_logs"
    logs.mkdir(exist_ok=True)
    runnable = [block for block in chosen if block.script()]
    good = [
        run(block, folder, logs / f"{re.sub(r'[/:]', '_', block.name)}.log", options.limit)
        for block in runnable
    ]
    print(f"{sum(good)} of {len(good)} blocks went well; logs in {logs}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
