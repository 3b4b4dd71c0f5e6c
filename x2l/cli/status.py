"""`x2l-status SWEEP...`: how every job of a sweep stands, while it runs or after it."""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from x2l.cli.output import command, fail, show
from x2l.runs.job_status import STATUS, SWEEP
from x2l.runs.sweep_status import EARLIER, GOING, MEANING, Job, jobs, time_left


def table(jobs: Sequence[Job], width: int | None = None) -> str:
    """One line a job, and one of totals.

    Args:
        jobs: from `jobs`.
        width: of the screen, where lines are cut off; None = no limit.
    """
    rows = []
    for job in jobs:
        done, of = job.values.get("records", 0), job.values.get("expected")
        left = job.left if job.state == "running" else None
        rows.append(
            [
                job.name,
                job.state,
                f"{done:,}" if job.folder else "-",
                f"{of:,}" if of else "-",
                f"{100 * done / of:.0f}%" if of else "-",
                f"{60 * job.rate:,.0f}" if job.rate else "-",
                "-" if left is None or not job.rate else _duration(left / job.rate),
                job.reason,
            ]
        )
    text = tabulate(
        rows,
        ["job", "state", "answers", "of", "", "a minute", "left", ""],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "left", *["right"] * 5, "left"),
    )
    return "\n".join([*(_cut(line, width) for line in text.splitlines()), "", _totals(jobs)])


def _cut(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def _totals(jobs: Sequence[Job]) -> str:
    counts: dict[str, int] = {}
    for job in sorted(jobs, key=lambda job: job.state != "done"):
        counts[job.state] = counts.get(job.state, 0) + 1
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    answers = sum(job.values.get("records", 0) for job in jobs)
    parts = [f"{len(jobs)} jobs: {states}", f"{answers:,} answers"]
    if (left := time_left(jobs)) is not None:
        parts.append(f"about {_duration(left)} left")
    lines = ["; ".join(parts)]
    lines += [f"{state}: {MEANING[state]}" for state in counts if state in MEANING]
    open_jobs = [job for job in jobs if job.state not in ("done", *GOING)]
    if any(not job.earlier for job in open_jobs):
        lines.append("the same command again answers what is missing")
    if earlier := sum(job.earlier for job in open_jobs):
        lines.append(f"{earlier} {EARLIER}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 0 when all jobs are done, 1 when not, 2 when there is none."""
    parser = argparse.ArgumentParser(prog="x2l-status", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="sweeps or runs")
    parser.add_argument(
        "--watch", type=float, metavar="SECONDS", help="again and again, until no job is going"
    )
    options = parser.parse_args(arguments)
    with command():
        _status(options.folders, options.watch)


def _status(folders: Sequence[Path], watch: float | None) -> None:
    if watch is not None and not 0 < watch < math.inf:
        fail(f"--watch={watch:g}: must be seconds above 0, e.g. --watch 5")
    for folder in folders:
        if not folder.is_dir():
            fail(f"folders={folder}: no such folder; give a folder that x2l wrote")
    current = jobs(folders)
    if not current:
        named = ", ".join(map(str, folders))
        fail(f"folders={named}: hold no {STATUS} and no {SWEEP}; run x2l first")
    screen = sys.stdout.isatty()
    clear = "\033[H\033[2J" if screen else "\n"
    try:
        read = show(table(current, _width(screen)))
        while read and watch and any(job.state in GOING for job in current):
            time.sleep(watch)
            current = jobs(folders)
            read = show(clear + table(current, _width(screen)))
    except KeyboardInterrupt:
        print(file=sys.stderr)
    sys.exit(0 if all(job.state == "done" for job in current) else 1)


def _width(screen: bool) -> int | None:
    return shutil.get_terminal_size().columns if screen else None


if __name__ == "__main__":
    main()
