"""The runs behind a report: what went wrong, and what they were made with."""

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from x2l.analysis.cell_names import names
from x2l.analysis.report.table import Column, Table, number, words
from x2l.runs.condition import Condition, from_json
from x2l.runs.out_of_memory_log import OutOfMemory, load_out_of_memory, unanswered
from x2l.runs.records import Record, read_json_lines
from x2l.runs.run_info import RUN
from x2l.runs.sweep_status import MEANING, Job

ERRORS = "errors.jsonl"  # as the runner names it
SOUND = ("done", "done-with-errors")
REMEDIES = {
    "interrupted": "stopped; the same command again does what is missing",
    "killed": "its process is gone; the same command again does what is missing",
    "incomplete": "answers that an earlier call asked for are missing; its command again gives them",
}


def states_table(jobs: Sequence[Job]) -> Table | None:
    """Every run that is not simply done; None where all are."""
    rows = []
    for job in jobs:
        if job.state in SOUND:
            continue
        meaning = REMEDIES.get(job.state) or MEANING.get(job.state, "")
        reason = job.reason or meaning
        answered, expected = job.values.get("records", 0), job.values.get("expected")
        counts = f"{answered} of {'?' if expected is None else expected}"
        rows.append((words(job.name), words(job.state), words(counts), words(reason)))
    columns = ("run", "state", "answers", "why")
    return Table("Runs that are not done", _text_columns(columns), tuple(rows)) if rows else None


def errors_table(jobs: Sequence[Job]) -> Table | None:
    """Every video that could not be used; None where all could."""
    rows = []
    for job in jobs:
        lines = read_json_lines(job.folder / ERRORS) if job.folder else ()
        for _, values in lines:
            rows.append(
                (
                    words(values.get("video_id", "?")),
                    words(job.name),
                    words(values.get("questions", "?")),
                    words(values.get("error", "?")),
                )
            )
    columns = ("video", "run", "questions", "why")
    return Table("Videos that were left out", _text_columns(columns), tuple(rows)) if rows else None


def memory_table(jobs: Sequence[Job], records: Sequence[Record]) -> Table | None:
    """Every cell and stage that ran out of memory and has not been answered since; None where none did.

    Raises:
        ValueError: a run's out_of_memory.jsonl is another program's.
    """
    groups: dict[tuple[str, ...], list[OutOfMemory]] = defaultdict(list)
    entries = [entry for job in jobs if job.folder for entry in load_out_of_memory(job.folder)]
    missing = unanswered(entries, records)
    called = names([*(r.condition for r in records), *(entry.condition for entry in missing)])
    run_of = {job.values.get("run_id"): job.name for job in jobs}
    for entry in missing:
        run_id, stage = entry.condition.run_id, entry.stage or "between stages"
        cell = called.cell(entry.condition)
        groups[cell, run_of.get(run_id, run_id), stage, entry.device].append(entry)
    rows = []
    for (cell, run, stage, device), members in groups.items():
        most = max((entry.requested_bytes or 0 for entry in members), default=0)
        rows.append(
            (
                words(cell),
                words(run),
                words(stage),
                words(device),
                number(len(members), "{:.0f}"),
                number(most * 2**-30, "{:.2f}") if most else words("–"),
                words(members[-1].error),
            )
        )
    columns = _text_columns(
        ("cell", "run", "stage", "device", "questions", "GiB asked for", "what to do")
    )
    return Table("Out of memory", columns, tuple(rows)) if rows else None


def _text_columns(names: Sequence[str]) -> tuple[Column, ...]:
    numbers = ("questions", "GiB asked for")
    return tuple(Column(name, numbers=name in numbers) for name in names)


def run_infos(jobs: Sequence[Job]) -> dict[Path, dict[str, Any]]:
    """run.json of each run that has one, by the run's folder: runs of several sweeps may share a name."""
    infos = {}
    for job in jobs:
        if job.folder is not None and (path := job.folder / RUN).exists():
            infos[job.folder] = json.loads(path.read_text(encoding="utf-8"))
    return infos


def hardware(infos: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """What computed, once each."""
    machines = []
    for info in infos.values():
        for session in info["sessions"]:
            threads = session["cpu_threads"]
            on_cpu = str(session["device"]).startswith("cpu")
            count = f", {threads} thread{'s' * (threads != 1)}" if on_cpu else ""
            machines.append(f"{session['processor']} ({session['device']}{count})")
    return list(dict.fromkeys(machines))


def sessions_table(infos: Mapping[Path, Mapping[str, Any]]) -> Table:
    """What code and versions computed, one row for each combination."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for info in infos.values():
        for session in info["sessions"]:
            commit = str(session["commit"] or "no checkout")[:12]
            changed = " with uncommitted changes" if session["dirty"] else ""
            versions = ", ".join(f"{k} {v}" for k, v in session["versions"].items())
            machine = f"{session['processor']} ({session['device']})"
            key = (commit + changed, str(session["code"]), versions, machine)
            weights = str(session["checkpoint"] or "–")
            groups[(*key, weights)].append(session["started"])
    columns = (
        "commit",
        "hash of the source",
        "versions",
        "machine",
        "weights",
        "sessions",
        "first",
        "last",
    )
    rows = []
    for made_with, members in groups.items():
        times = (words(min(members)), words(max(members)))
        rows.append((*map(words, made_with), words(len(members)), *times))
    return Table("Code, versions and machines", _text_columns(columns), tuple(rows))


def commands_table(jobs: Sequence[Job], infos: Mapping[Path, Mapping[str, Any]]) -> Table:
    """How each run is made again, and the hash of its configuration; a line a command, where several asked."""
    rows = []
    for job in jobs:
        info = infos.get(job.folder) if job.folder else None
        identity = info["run_id"] if info else str(job.values.get("run_id", "–"))
        told = "not started"
        if job.folder:
            commands = [command for command, _ in _commands(job.folder, info) if command]
            told = "; ".join(dict.fromkeys(commands)) or "not recorded"
        rows.append((words(job.name), words(identity), words(told)))
    return Table(
        "Runs", _text_columns(("run", "hash of the configuration", "command")), tuple(rows)
    )


def cell_commands(infos: Mapping[Path, Mapping[str, Any]]) -> dict[Condition, str]:
    """Cell -> the last command that asked for it, as far as that is known.

    Args:
        infos: run.json by folder.
    """
    return {
        condition: command
        for folder, info in infos.items()
        for command, conditions in _commands(folder, info)
        if command is not None
        for condition in conditions
    }


def _commands(
    folder: Path, info: Mapping[str, Any] | None
) -> list[tuple[str | None, list[Condition]]]:
    """What was called in a folder, one after the other, and for which cells; None where that is not recorded."""
    last = _yaml(folder / ".hydra" / "overrides.yaml")  # Hydra writes it anew each time
    last = _command(last) if isinstance(last, list) else None
    if info is None:
        return [(last, [])]
    commands = []
    for session in info["sessions"]:
        command = _command(session["overrides"]) if "overrides" in session else None
        if command is None and session is info["sessions"][-1]:
            command = last
        commands.append((command, [from_json(values) for values in session["conditions"]]))
    return commands


def _command(overrides: Sequence[str]) -> str:
    return shlex.join(["x2l", *map(str, overrides)])


def sweep_command(folder: Path) -> str | None:
    """The last command that swept into a folder; None where it is no sweep's."""
    config = _yaml(folder / "multirun.yaml")
    if not isinstance(config, dict):
        return None
    overrides = config.get("hydra", {}).get("overrides", {})
    flags = [word for word in overrides.get("hydra", []) if not str(word).startswith("hydra.mode=")]
    return shlex.join(["x2l", "-m", *map(str, [*overrides.get("task", []), *flags])])


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
