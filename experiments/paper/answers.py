"""The answers of an experiment in one small file, and what made them: enough to draw its figure without the runs."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.analysis.collect import records_under
from x2l.engine.stages import STAGES
from x2l.runs import sweep_status
from x2l.runs.condition import to_json as condition_to_json
from x2l.runs.records import Record, from_json, to_json
from x2l.runs.run_info import RUN

# What no figure needs, and takes most of the room; seconds keep four digits.
LEFT_OUT = {"relevance": [], "prediction": "", "question": ""}
LEFT_OUT |= {f"peak_memory_{stage}": None for stage in STAGES}


@dataclass(frozen=True)
class Answers:
    """Of one experiment.

    Attributes:
        records: every answer.
        runs: of each run what made it: commit, versions, machine, model and benchmark.
        commands: what was run.
        problems: what is not finished.
    """

    records: Sequence[Record]
    runs: Sequence[Mapping[str, Any]]
    commands: Sequence[str]
    problems: Sequence[str]


def read_sweep(sweep: Path, commands: Sequence[str]) -> Answers:
    """The answers of runs.

    Raises:
        ValueError: there are none.
    """
    files = [run / RUN for run in sweep_status.find_runs([sweep])]
    runs = [_provenance(json.loads(file.read_text())) for file in files if file.exists()]
    problems = sweep_status.unfinished(sweep_status.jobs([sweep]))
    return Answers(records_under([sweep]), runs, commands, problems)


def save(answers: Answers, path: Path) -> None:
    """Writes the file: every condition once, and every other field of the records as a column of its values."""
    rows = [to_json(record) for record in answers.records]
    conditions = [condition_to_json(record.condition) for record in answers.records]
    names = [name for name in rows[0] if name not in conditions[0] and name not in LEFT_OUT]
    columns = {name: _coded([_rounded(name, row[name]) for row in rows]) for name in names}
    values = {
        "runs": list(answers.runs),
        "commands": list(answers.commands),
        "problems": list(answers.problems),
        "conditions": _coded(conditions),
        "columns": columns,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(json.dumps(values).encode(), preset=9))


def load(path: Path) -> Answers:
    """Reads what `save` wrote. What was left out is empty in its records."""
    values = json.loads(lzma.decompress(path.read_bytes()))
    columns = {name: _decoded(column) for name, column in values["columns"].items()}
    records = [
        from_json({**condition, **LEFT_OUT, **dict(zip(columns, row, strict=True))})
        for condition, row in zip(
            _decoded(values["conditions"]), zip(*columns.values(), strict=True), strict=True
        )
    ]
    return Answers(records, values["runs"], values["commands"], values["problems"])


def _coded(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Each value once, and their numbers."""
    texts = [json.dumps(value) for value in values]
    unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return {"values": [json.loads(text) for text in unique], "rows": [unique[t] for t in texts]}


def _decoded(column: Mapping[str, list[Any]]) -> list[Any]:
    return [column["values"][row] for row in column["rows"]]


def _rounded(name: str, value: Any) -> Any:
    return float(f"{value:.4g}") if name.startswith("seconds_") and value else value


def _provenance(info: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run, from its run.json: no paths."""
    config, versions = info["config"], info["versions"]
    kept = {name: info[name] for name in ("commit", "dirty", "code", "processor", "cpu_threads")}
    benchmark = config["benchmark"]
    return kept | {
        "model": Path(config["model"]["name_or_path"]).name,
        "benchmark": benchmark["_target_"].split(".")[-1].lower(),
        "videos": benchmark.get("videos", 0),
        "versions": {name: versions[name] for name in ("torch", "transformers")},
    }
