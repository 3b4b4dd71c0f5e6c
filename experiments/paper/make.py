"""`make paper`: runs every experiment of the paper at a small size, draws it, and writes one page of all.

    python -m experiments.paper.make    # all, on needle with x2l_tiny -> outputs/paper/README.md
    python -m experiments.paper.make paper_main --jobs 1  # some; started again, it goes on where it stopped
    python -m experiments.paper.make --draw  # runs nothing: figures, tables and page of the answers there are
    python -m experiments.paper.make --draw --publish experiments/results/paper  # what of it the repository keeps
    python -m experiments.paper.make paper_main --records outputs/sweeps/mine  # draws runs of your own, beside them

Answers of the last run are in outputs/paper, with --set in a folder of their own beside it; of an experiment that was
not run here, those of the repository are drawn.

An experiment's commands are the lines `# x2l ...` at the top of its yaml; what the page shows is what was run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from experiments.paper.answers import load, read_sweep, save
from experiments.paper.kit.output import result_of, write
from experiments.paper.kit.spec import FigureSpec
from experiments.paper.page import Shown, page
from x2l.analysis.collect import records_under
from x2l.cli.compose import CONF
from x2l.runs.pasted import override
from x2l.runs.records import RECORDS

OUT = Path(os.environ.get("X2L_OUTPUTS", "outputs")) / "paper"
KEPT = Path(__file__).parents[1] / "results" / "paper"  # in the repository
# The order of the page.
NAMES = (
    *(
        "paper_claim",
        "paper_main",
        "paper_hit_rate",
        "paper_base_ratio",
        "paper_selectors",
        "paper_low_ratio",
    ),
    *("paper_pinned", "paper_chunk_size", "paper_context", "paper_positions", "paper_compressors"),
    *("paper_haystack", "ladder", "quantised", "paper_efficiency"),
)
ALONE = ("paper_efficiency",)  # measures seconds: nothing of ours runs beside it
# Experiments share pre-fills; records are the same without it. Not where loading would stand in for what is measured.
CACHE = (f"prefill.cache={OUT / 'prefill'}", "prefill.cache_gb=4")
SLOW = (
    "paper_compressors",
    "paper_main",
    "ladder",
)  # begun first, so that none of the others waits for them


@dataclass(frozen=True)
class Command:
    """One command of an experiment."""

    name: str
    number: int
    words: tuple[str, ...]

    @property
    def label(self) -> str:
        """Of its log."""
        return f"{self.name}-{self.number}"


def header(name: str) -> list[str]:
    """The comment at the top of an experiment's yaml, line by line, without its marks."""
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[1:]
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("# ") for line in lines[:end]]


def commands(name: str) -> list[Command]:
    """What `make paper` runs of an experiment; indented lines are for other models and sets."""
    found = [line for line in header(name) if line.startswith("x2l ")]
    return [Command(name, at, tuple(shlex.split(text))) for at, text in enumerate(found, start=1)]


def replaced(words: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """A command with some overrides instead of its own, or on top."""
    keys = {override.partition("=")[0] for override in overrides}
    return [word for word in words if word.partition("=")[0] not in keys] + list(overrides)


def run(command: Command, overrides: Sequence[str], out: Path) -> bool:
    """Runs a command as a process of its own; its output goes to a log. Finished parts of it are not run again.

    Not in the experiment's default folder, where somebody may have tried it at another size.
    """
    log = out / "logs" / f"{command.label}.log"
    place = override("hydra.sweep.dir", out / "sweeps" / command.name)
    cache = () if command.name in ALONE else CACHE
    words = replaced(command.words, [*cache, *overrides, place])
    start = time.perf_counter()
    with log.open("w") as file:
        print(shlex.join(words), file=file, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "x2l.cli.run", *words[1:]],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    state = "done" if done.returncode == 0 else f"FAILED ({done.returncode}), see {log}"
    took = time.perf_counter() - start
    print(f"{time.strftime('%H:%M:%S')}  {command.label:22s} {took:6.0f} s  {state}", flush=True)
    return done.returncode == 0


def ran(command: Command, logs: Path) -> str:
    """The command as it was run last, by its log, without the cache; as its yaml says where it was not."""
    log = logs / f"{command.label}.log"
    words = shlex.split(log.read_text().partition("\n")[0]) if log.exists() else command.words
    ours = ("prefill.cache", "hydra.sweep.dir")
    return shlex.join(word for word in words if not word.startswith(ours))


def folder_of(overrides: Sequence[str]) -> Path:
    """Where answers go: those of another size, model or set never beside those of the page."""
    size = "-".join(re.sub(r"[^\w.=+-]", "_", word) for word in sorted(overrides))
    return OUT.with_name(f"{OUT.name}-{size}"[:200]) if size else OUT


def run_all(names: Sequence[str], overrides: Sequence[str], jobs: int, out: Path) -> bool:
    """Runs the commands of some experiments, `jobs` at a time; those that measure seconds come last, alone.

    Returns:
        Whether all went well.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    todo = [command for name in names for command in commands(name)]
    beside = [command for command in todo if command.name not in ALONE]
    beside.sort(key=lambda command: (*SLOW, command.name).index(command.name))
    good = []
    for some, at_once in ((beside, jobs), ([c for c in todo if c.name in ALONE], 1)):
        with ThreadPoolExecutor(at_once) as pool:
            good += pool.map(lambda command: run(command, overrides, out), some)
    return all(good)


def spec_of(name: str) -> FigureSpec:
    """The figure of an experiment."""
    return importlib.import_module(f"experiments.paper.figures.{name}").SPEC


def draw_all(names: Sequence[str], out: Path) -> bool:
    """Figures and tables of every experiment with answers, and the page.

    Returns:
        Whether every experiment is there, and finished.
    """
    shown, missing = [], []
    for name in names:
        sweep, file = out / "sweeps" / name, Path("answers") / f"{name}.json.xz"
        try:
            if any(sweep.rglob(RECORDS)):
                lines = [ran(command, out / "logs") for command in commands(name)]
                save(read_sweep(sweep, lines), out / file)
            elif (KEPT / file).exists():
                (out / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(KEPT / file, out / file)
            else:
                missing.append(f"{name}: not run yet")
                continue
            answers = load(out / file)
            result = result_of(spec_of(name), answers.records)
        except ValueError as error:
            missing.append(f"{name}: {error}")
            continue
        write(result, name, out)
        missing += [f"{name}: {problem}" for problem in answers.problems]
        shown.append(Shown(name, result, answers))
    (out / "README.md").write_text(page(shown, missing))
    print(*missing, out / "README.md", sep="\n", file=sys.stderr if missing else sys.stdout)
    return not missing


def publish(out: Path, folder: Path) -> None:
    """Copies the page, the tables as Markdown, the figures as PNG and the answers; what is no longer made goes."""
    shutil.rmtree(folder, ignore_errors=True)
    kinds = ("README.md", "figures/*.png", "tables/*.md", "answers/*.xz")
    for path in sorted(path for kind in kinds for path in out.glob(kind)):
        target = folder / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.suffix == ".md" and re.sub(r" · \[(PDF|LaTeX)\]\([^)]*\)", "", path.read_text())
        target.write_text(text) if text else shutil.copyfile(path, target)


def draw_own(name: str, folders: Sequence[Path], out: Path) -> None:
    """Draws other runs of an experiment: another model, or another set."""
    result = result_of(spec_of(name), records_under(folders))
    files = write(result, name, out)
    print(files[2].read_text(), *result.notes, "", *files, sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, draws, publishes; 1 if anything is missing."""
    parser = argparse.ArgumentParser(
        prog="experiments.paper.make", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all, if none is given")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time, one core each")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument(
        "--publish", type=Path, help="copy page, PNGs, Markdown, answers to a folder"
    )
    parser.add_argument("--set", nargs="+", default=[], help="overrides, e.g. benchmark.videos=2")
    parser.add_argument("--records", type=Path, nargs="+", help="draw one figure of these runs")
    parser.add_argument("--out", type=Path, help="with --records; default: the first of them")
    values = parser.parse_args(arguments)
    if unknown := sorted(set(values.names) - set(NAMES)):
        parser.error(f"{', '.join(unknown)}: no such experiment; there are {', '.join(NAMES)}")
    if values.records:
        if len(values.names) != 1:
            parser.error("--records: give the name of one experiment with it")
        try:
            draw_own(values.names[0], values.records, values.out or values.records[0])
        except ValueError as error:
            parser.exit(2, f"error: {error}\n")
        return 0
    names = [name for name in NAMES if not values.names or name in values.names]
    out = folder_of(values.set)
    complete = values.draw or run_all(names, values.set, values.jobs, out)
    complete = draw_all(NAMES, out) and complete
    if values.publish:
        publish(out, values.publish)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
