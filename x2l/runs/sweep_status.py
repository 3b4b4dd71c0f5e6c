"""`x2l-status SWEEP...`: how every job of a sweep stands, while it runs or after it.

Reads what the jobs themselves write (status.json) and what the sweep was started for (sweep.jsonl):
no Hydra, no torch, no records.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from x2l.runs.job_status import BEAT, STATUS, SWEEP, read_status
from x2l.runs.processes import lives
from x2l.runs.records import RECORDS, read_json_lines

SILENT = 9 * BEAT  # seconds without a sign of life
GOING = ("running", "queued")
# Beside those of `jobstatus.State`, which jobs write themselves.
MEANING = {
    "queued": "the sweep goes on and has not begun it",
    "not-started": "the process that was to begin it has ended (a cluster may still begin it)",
    "killed": "its process is gone",
    "silent": f"its process is there, but has given no sign of life for {SILENT:.0f} s",
    "unknown": "records without a status",
}


@dataclass(frozen=True)
class Job:
    """One job of a sweep, or a run of its own.

    Attributes:
        name: of its folder; where it has none yet, the overrides that tell it from the other jobs.
        folder: of its results; None if it has not begun.
        state: as `jobstatus.State`, or one of `MEANING`.
        values: of its status.json; of a job that has not begun, its overrides.
    """

    name: str
    folder: Path | None
    state: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """Answers a second since it began to answer; None before."""
        added, seconds = self.values.get("added"), self.values.get("seconds")
        return added / seconds if added and seconds else None

    @property
    def left(self) -> int | None:
        """Answers that it has still to try; None where that is not known."""
        if self.values.get("seconds") is None or "settled" not in self.values:
            return None
        # Not `added` + `out_of_memory`: those that ran out of memory earlier are missing, and tried again.
        return max(0, int(self.values["missing"] - self.values["settled"]))

    @property
    def reason(self) -> str:
        """Why it is not simply done, in one line."""
        told: list[str] = []
        if error := self.values.get("error"):
            told.append(" ".join(str(error).removeprefix("ConfigError: ").split()))
        if self.state == "running" and (doing := self.values.get("doing")):
            told.append(doing)
        if errors := self.values.get("errors"):
            more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
            told.append(" ".join(f"left out: {errors[0]}{more}".split()))
        if short := self.values.get("out_of_memory"):
            told.append(f"{short} answers out of memory")
        return "; ".join(told)


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Every folder with records or a status at or under the given ones, sorted, once each."""
    found = {
        file.parent.resolve()
        for folder in folders
        for name in (RECORDS, STATUS)
        for file in folder.rglob(name)
    }
    return sorted(found)


def jobs(folders: Sequence[Path]) -> list[Job]:
    """Every job at or under the given folders: those that have begun by folder, then the others."""
    runs = find_runs(folders)
    statuses = {run: read_status(run) for run in runs}
    states = {run: _state(run, status) for run, status in statuses.items()}
    waiting: list[Job] = []
    for file in sorted({f.resolve() for folder in folders for f in folder.rglob(SWEEP)}):
        begun = {
            tuple(sorted(overrides)): run
            for run, status in statuses.items()
            if status is not None and run.is_relative_to(file.parent)
            for overrides in status.get("overrides", ())
        }
        expected = _expected(file)
        shared = set.intersection(*map(set, expected)) if len(expected) > 1 else set()
        for key, (job, started) in expected.items():
            goes_on = lives(started["process"]) is not False
            if key not in begun:
                told = " ".join(word for word in job if word not in shared)
                state = "queued" if goes_on else "not-started"
                known = {"overrides": [job]}
                waiting.append(Job(told or "the only job", None, state, known))
                continue
            status = statuses[begun[key]] or {}
            old = _seconds(status["updated"]) < _seconds(started["started"])
            if goes_on and old and states[begun[key]] not in ("done", "running"):
                states[begun[key]] = "queued"  # what its folder says is of an earlier time
    return [Job(run.name, run, states[run], statuses[run] or {}) for run in runs] + waiting


def _expected(file: Path) -> dict[tuple[str, ...], tuple[list[str], dict[str, Any]]]:
    """The jobs that a sweep was started for: their overrides, and the last time it was started for each."""
    found: dict[tuple[str, ...], tuple[list[str], dict[str, Any]]] = {}
    for _, started in read_json_lines(file):
        found |= {tuple(sorted(job)): (job, started) for job in started["jobs"]}
    return found


def _state(run: Path, status: Mapping[str, Any] | None) -> str:
    if status is None:
        return "unknown"
    if status["state"] != "running":
        return str(status["state"])
    silent = time.time() - (run / STATUS).stat().st_mtime > SILENT
    alive = lives(status.get("process"))
    if alive is None:  # on another machine: only its signs of life are seen
        return "killed" if silent else "running"
    return "killed" if not alive else "silent" if silent else "running"


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def unfinished(jobs: Sequence[Job]) -> list[str]:
    """One line for each job that is not simply done: it failed, was cut off, or had bad videos."""
    lines = []
    for job in jobs:
        if job.state == "done":
            continue
        if job.folder is None:
            lines.append(f"{job.name}: {job.state}")
            continue
        answered = f"{job.values.get('records', 0)} of {job.values.get('expected') or '?'} answers"
        reason = f": {job.reason}" if job.reason else ""
        remedy = "" if job.values.get("records") else "; run it again, or remove the folder"
        lines.append(f"{job.name}: {job.state}, {answered}{reason}{remedy}")
    return lines


def table(jobs: Sequence[Job], width: int | None = None) -> str:
    """One line a job, and one of totals.

    Args:
        jobs: from `jobs`.
        width: of the screen, where lines are cut off; None = no limit.
    """
    lines = [["job", "state", "answers", "of", "", "a minute", "left", ""]]
    for job in jobs:
        done, of = job.values.get("records", 0), job.values.get("expected")
        lines.append(
            [
                job.name,
                job.state,
                f"{done:,}" if job.folder else "-",
                f"{of:,}" if of else "-",
                f"{100 * done / of:.0f}%" if of else "-",
                f"{60 * job.rate:,.0f}" if job.rate else "-",
                _duration(job.left / job.rate)
                if job.rate and job.left is not None and job.state == "running"
                else "-",
                job.reason,
            ]
        )
    widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:-1]]
    told = []
    for line in lines:
        cells = [cell.ljust(w) for cell, w in zip(line[:2], widths[:2], strict=True)]
        cells += [cell.rjust(w) for cell, w in zip(line[2:-1], widths[2:], strict=True)]
        told.append(_cut("  ".join([*cells, line[-1]]).rstrip(), width))
    return "\n".join([*told, "", _totals(jobs)])


def _cut(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def _totals(jobs: Sequence[Job]) -> str:
    counts: dict[str, int] = {}
    for job in sorted(jobs, key=lambda job: job.state != "done"):
        counts[job.state] = counts.get(job.state, 0) + 1
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    answers = sum(job.values.get("records", 0) for job in jobs)
    told = [f"{len(jobs)} jobs: {states}", f"{answers:,} answers"]
    if (left := _time_left(jobs)) is not None:
        told.append(f"about {_duration(left)} left")
    lines = ["; ".join(told)]
    lines += [f"{state}: {MEANING[state]}" for state in counts if state in MEANING]
    if counts.keys() - {"done", *GOING}:
        lines.append("the same command again answers what is missing")
    return "\n".join(lines)


def _time_left(jobs: Sequence[Job]) -> float | None:
    """Seconds, at the pace of the jobs that are running, or (as long as these have none) of one that is done.

    None where neither is known. A job that has not begun is taken to have as many answers as the others on average.
    """
    going = [job for job in jobs if job.state in GOING]
    sizes = [job.values["expected"] for job in jobs if job.values.get("expected")]
    known = [job.rate for job in jobs if job.state == "done" and job.rate]
    pace = sum(job.rate or 0.0 for job in going) or (sum(known) / len(known) if known else 0.0)
    if not (going and sizes and pace):
        return None
    mean = sum(sizes) / len(sizes)
    return sum(mean if job.left is None else job.left for job in going) / pace


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
    if options.watch is not None and options.watch <= 0:
        parser.error(f"--watch={options.watch:g}: must be seconds above 0, e.g. --watch 5")
    for folder in options.folders:
        if not folder.is_dir():
            parser.error(f"folders={folder}: no such folder; give a folder that x2l wrote")
    found = jobs(options.folders)
    if not found:
        named = ", ".join(map(str, options.folders))
        parser.error(f"folders={named}: hold no {STATUS} and no {SWEEP}; run x2l first")
    screen = sys.stdout.isatty()
    print(table(found, _width(screen)))
    try:
        while options.watch and any(job.state in GOING for job in found):
            time.sleep(options.watch)
            found = jobs(options.folders)
            clear = "\033[H\033[2J" if screen else "\n"
            print(clear + table(found, _width(screen)), flush=True)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    sys.exit(0 if all(job.state == "done" for job in found) else 1)


def _width(screen: bool) -> int | None:
    return shutil.get_terminal_size().columns if screen else None


if __name__ == "__main__":
    main()
