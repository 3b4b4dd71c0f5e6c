"""Processor seconds until a command says something: `x2l --help`, a TAB, and `x2l` to its first decoded frame.

    python -m experiments.speed.start_up      # -> experiments/results/start_up/start_up.json

Every figure is a process of its own, in turn, `--repeats` times; medians of processor seconds (user and system of the
process), which other work on the machine does not lengthen, with wall seconds beside them. The videos are made
beforehand. What the imports of a run take, each without those that it imports itself, is listed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from x2l.runs.run_info import describe, processor_name

RESULTS = Path(__file__).parents[1] / "results" / "start_up"
RUN = ["benchmark.videos=1", "benchmark.seconds=16", "video.frames=16", "tracker=none"]
# Ends the process when the first chunk of frames has been decoded.
FIRST_FRAME = """
import os, sys
from x2l import video
blocks = video.FrameStream.blocks
def first(self, spans):
    for block in blocks(self, spans):
        os._exit(0)
video.FrameStream.blocks = first
from x2l.cli import run
run.main()
"""
SHOWN = 25


def commands(folder: str) -> dict[str, list[str]]:
    """Command lines."""
    run = [*RUN, f"hydra.run.dir={folder}/run"]
    help_ = "import sys; sys.argv = ['x2l', '--help']; from x2l.cli.start import main; main()"
    return {
        "python": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
        "x2l --help": [sys.executable, "-c", help_],
        "x2l to the first frame": [sys.executable, "-c", FIRST_FRAME, *run],
    }


def used(words: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of a process."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words[2][:60]}: {done.stderr}")
    after = os.times()
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system, time.perf_counter() - start


def imports(words: list[str]) -> list[tuple[str, float]]:
    """Packages by the seconds that their own modules took, most first."""
    timed = [words[0], "-X", "importtime", *words[1:]]
    done = subprocess.run(timed, capture_output=True, text=True, check=True)
    packages: dict[str, float] = {}
    for line in done.stderr.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():
            package = rest.rpartition("|")[2].strip().partition(".")[0]
            packages[package] = packages.get(package, 0.0) + int(own) / 1e6
    return sorted(packages.items(), key=lambda pair: -pair[1])[:SHOWN]


def main() -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        words = commands(folder)
        used(words["x2l to the first frame"])  # makes the videos, and fills the disk's cache
        for _ in range(given.repeats):
            for name, line in words.items():
                found.setdefault(name, []).append(used(line))
        slowest = imports(words["x2l to the first frame"])
    rows: dict[str, Any] = {}
    for name, pairs in found.items():
        processor, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows[name] = {"processor_seconds": processor, "wall_seconds": wall, "runs": pairs}
        print(f"{name:26s} {processor:6.2f} s of the processor, {wall:6.2f} s")
    for package, seconds in slowest:
        print(f"    {package:20s} {seconds:.3f}")
    info = describe("start_up", {}, "cpu", processor_name(), 1)
    about = {"commit": info.commit, "dirty": info.dirty, "started": info.started}
    about |= {"processor": info.processor, "versions": dict(info.versions)}
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "rows": rows, "imports": slowest}, indent=1)
    (given.out / "start_up.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
