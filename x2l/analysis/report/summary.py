"""The head of a report: what was swept, on what, how much of it there is, and what is missing. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from x2l.analysis.cell_names import value_text, varying
from x2l.analysis.compute_axes import comparable
from x2l.analysis.points import Point
from x2l.analysis.report import run_tables
from x2l.analysis.report.difference_tables import CellResult, Pair, chooses
from x2l.analysis.report.table import Table
from x2l.engine.top_k import order_key
from x2l.runs.condition import FULL, Condition, last_resorts
from x2l.runs.records import Record
from x2l.runs.sweep_status import Job

_ADD_FULL = "compressor=key_norm levels.low.ratio=1 levels.high.ratio=1 selector=none"
_AXES = {"compressor": "compressors", "selector": "selectors", "control": "controls"}


def facts(
    rows: Sequence[Point],
    records: Sequence[Record],
    runs: Sequence[Job],
    infos: Mapping[Path, Mapping[str, Any]],
) -> tuple[tuple[str, str], ...]:
    """What was swept, on what, and how much of it there is.

    Args:
        rows: cells.
        records: their answers.
        runs: those of the folder.
        infos: their run.json.
    """
    conditions = [p.condition for p in rows]
    compressed = [condition for condition in conditions if condition.baseline != FULL]
    questions = len({record.question.sample_id for record in records})
    videos = len({record.video.video_id for record in records})
    done = sum(job.state in run_tables.SOUND for job in runs)
    model, benchmark, protocol, dtype = (
        _values(conditions, name) for name in ("model", "benchmark", "protocol", "dtype")
    )
    fixed = [
        ("model", f"{model} ({dtype})"),
        ("benchmark", f"{benchmark}, protocol {protocol}"),
        ("questions", f"{questions:,} about {videos:,} videos"),
        (
            "cells",
            f"{len(rows):,} in {len(runs):,} runs, {done:,} of them done; {len(records):,} answers",
        ),
        ("hardware", "; ".join(run_tables.hardware(infos)) or "not recorded"),
    ]
    above = ("model", "benchmark", "protocol", "dtype", *last_resorts())
    swept = [name for name in varying(compressed) if name not in above]
    return (
        *fixed,
        *((f"swept: {_AXES.get(name, name)}", _values(compressed, name)) for name in swept),
    )


def _values(conditions: Sequence[Condition], name: str) -> str:
    values = {condition.traits.get(name) for condition in conditions} - {None, ()}
    numbers = sorted(value for value in values if isinstance(value, int | float))
    texts = [value_text(value) for value in values if not isinstance(value, int | float)]
    return ", ".join([*map(value_text, numbers), *sorted(texts, key=order_key)])


def what_is_missing(
    cells: Sequence[CellResult],
    against_controls: Sequence[Pair],
    selection: Table | None,
    infos: Mapping[Path, object],
) -> list[str]:
    """What the report cannot show, and what to run for it."""
    notes, without = [], []
    for group in comparable(cell.point for cell in cells):
        condition = group[0].condition
        where = (
            f" of {condition.model} on {condition.benchmark}, {group[0].frames_sampled:g} frames"
        )
        if not any(p.condition.baseline == FULL for p in group):
            without.append(where)
        if max(p.videos for p in group) < 2:
            notes.append(
                f"one video{where}: intervals say nothing about others; raise benchmark.videos or limit"
            )
    if without:
        notes.insert(0, f"no full-KV run{';'.join(without)} in this sweep: add {_ADD_FULL}")
    choosing = [cell.condition for cell in cells if not cell.condition.baseline]
    if not choosing:
        notes.append("no cell re-loads chunks: there is no selection to show")
    elif not any(condition.role == "control" for condition in choosing):
        notes.append("no random selection in this sweep to compare with: add selector=random")
    elif not against_controls and any(chooses(c) and c.role != "control" for c in choosing):
        notes.append("no cell has a control of the same pre-fill and top_k beside it")
    if choosing and selection is None:
        notes.append(
            "recall is not known: this benchmark does not say which chunks hold the answer"
        )
    if all(cell.point.questions == 0 for cell in cells):
        notes.append(
            "no accuracy: no answer is known, or none could be read; see `prediction` in records.jsonl"
        )
    if not infos:
        notes.append("no run.json beside the records: code, versions and hardware are not known")
    return notes
