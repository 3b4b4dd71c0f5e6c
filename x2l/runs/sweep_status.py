"""How every job of a sweep stands, while it runs or after it.

Reads what the jobs themselves write (status.json) and what the sweep was started for (sweep.jsonl):
no Hydra, no torch, no records.
"""

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
EARLIER = f"of an earlier command: give that again, or remove the folder (where there is none, the line in {SWEEP})"
# Beside those of `job_status.State`, which jobs write themselves.
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
        state: as `job_status.State`, or one of `MEANING`.
        values: of its status.json; of a job that has not begun, its overrides.
        earlier: whether only an earlier command asked for it than the one that the sweep was started with last.
    """

    name: str
    folder: Path | None
    state: str
    values: Mapping[str, Any] = field(default_factory=dict)
    earlier: bool = False

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
        reasons: list[str] = []
        if error := self.values.get("error"):
            reasons.append(" ".join(str(error).removeprefix("ConfigError: ").split()))
        if self.state == "running" and (doing := self.values.get("doing")):
            reasons.append(doing)
        if errors := self.values.get("errors"):
            more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
            reasons.append(" ".join(f"left out: {errors[0]}{more}".split()))
        if missing := self.values.get("out_of_memory"):
            reasons.append(f"{missing} answers out of memory")
        return "; ".join(reasons)


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Every folder with records or a status at or under the given ones, sorted, once each."""
    files = (
        file for folder in folders for name in (RECORDS, STATUS) for file in folder.rglob(name)
    )
    return sorted({file.parent.resolve() for file in files})


def jobs(folders: Sequence[Path]) -> list[Job]:
    """Every job at or under the given folders: those that have begun by folder, then the others."""
    runs = find_runs(folders)
    statuses = {run: read_status(run) for run in runs}
    states = {run: _state(run, status) for run, status in statuses.items()}
    waiting: list[Job] = []
    earlier: set[Path] = set()
    for file in sorted({f.resolve() for folder in folders for f in folder.rglob(SWEEP)}):
        begun = {
            tuple(sorted(overrides)): run
            for run, status in statuses.items()
            if status is not None and run.is_relative_to(file.parent)
            for overrides in status.get("overrides", ())
        }
        expected = _expected(file)
        shared = set.intersection(*map(set, expected)) if len(expected) > 1 else set()
        last = next(reversed(expected.values()))[1] if expected else None
        for key, (_, started) in expected.items():
            if key in begun and started is not last:
                earlier.add(begun[key])
        earlier -= {begun[k] for k, (_, at) in expected.items() if at is last and k in begun}
        for key, (job, started) in expected.items():
            goes_on = lives(started["process"]) is not False
            if key not in begun:
                name = " ".join(word for word in job if word not in shared)
                state = "queued" if goes_on else "not-started"
                values = {"overrides": [job]}
                waiting.append(
                    Job(name or "the only job", None, state, values, started is not last)
                )
                continue
            status = statuses[begun[key]] or {}
            old = _seconds(status["updated"]) < _seconds(started["started"])
            if goes_on and old and states[begun[key]] not in ("done", "running"):
                states[begun[key]] = "queued"  # what its folder says is of an earlier time
    begun_jobs = [
        Job(run.name, run, states[run], statuses[run] or {}, run in earlier) for run in runs
    ]
    return begun_jobs + waiting


def _expected(file: Path) -> dict[tuple[str, ...], tuple[list[str], dict[str, Any]]]:
    """The jobs that a sweep was started for: their overrides, and the last time it was started for each."""
    expected: dict[tuple[str, ...], tuple[list[str], dict[str, Any]]] = {}
    for _, started in read_json_lines(file):
        for job in started["jobs"]:
            expected.pop(key := tuple(sorted(job)), None)  # the last time stands at the end
            expected[key] = job, started
    return expected


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
            lines.append(f"{job.name}: {job.state}{'; ' + EARLIER if job.earlier else ''}")
            continue
        answered = f"{job.values.get('records', 0)} of {job.values.get('expected') or '?'} answers"
        reason = f": {job.reason}" if job.reason else ""
        remedy = "" if job.values.get("records") else "; run it again, or remove the folder"
        remedy = f"; {EARLIER}" if job.earlier else remedy
        lines.append(f"{job.name}: {job.state}, {answered}{reason}{remedy}")
    return lines


def time_left(jobs: Sequence[Job]) -> float | None:
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
