"""Records as flat rows, one an answer, with a column for each measure of each level."""

from __future__ import annotations

import dataclasses
import glob
import os
from pathlib import Path
from typing import Any

from x2l import UserError
from x2l.runs.records import Record, load, to_json
from x2l.runs.sweep_status import find_runs


def runs_in(*places: str | os.PathLike[str]) -> list[Path]:
    """Every run at or under some folders, sorted.

    Args:
        places: runs or sweeps, by path or by a pattern such as `outputs/sweeps/*`.

    Raises:
        UserError: no such folder.
    """
    folders: list[Path] = []
    for place in (os.fspath(each) for each in places):
        matches = [place] if Path(place).is_dir() else sorted(glob.glob(place, recursive=True))
        matching = [Path(match) for match in matches if Path(match).is_dir()]
        if not matching:
            raise UserError(f"{place}: no such folder; give a run or a sweep that x2l wrote")
        folders += matching
    return find_runs(folders)


def rows(*places: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Every answer at or under the given runs and sweeps, each once; places as in `runs_in`.

    Columns are the fields of `runs.records` and `runs.condition`; `flops` and `seconds` one a stage (`flops_decode`);
    what a record has by level or tag one a name: `ratio.low`, `compressor.low`, `codec.low`, `measured_ratio.low`,
    `kept.low`, `tags.kind`. Beside them `compressor` of all levels in a word, `baseline` (`full`, `all-low`, ...; None
    where chunks are chosen) and `selected` (chunks re-loaded).

    Raises:
        UserError: no such folder.
        ValueError: a line that is no record of this version.
    """
    unique = {record.key: record for run in runs_in(*places) for record in load(run)}
    return [row(record) for record in unique.values()]


def row(record: Record) -> dict[str, Any]:
    """One record as flat plain values, see `rows`."""
    columns: dict[str, Any] = {}
    for name, value in to_json(record).items():
        if isinstance(value, dict):
            columns |= {f"{name}.{key}": part for key, part in value.items()}
        elif name not in ("schema", "levels"):
            columns[name] = value
    for level in record.condition.levels:
        settings = {key: value for key, value in dataclasses.asdict(level).items() if key != "name"}
        columns |= {f"{key}.{level.name}": value for key, value in settings.items()}
    return columns | {
        "compressor": record.condition.compressor,
        "baseline": record.condition.baseline,
        "selected": record.selected,
    }
