"""Answers and cells of any set of runs as pandas DataFrames. For polars or Arrow: `pyarrow.Table.from_pandas(df)`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from x2l.analysis import points as cells
from x2l.runs.out_of_memory_log import load_out_of_memory
from x2l.runs.records import load
from x2l.runs.rows import rows, runs_in

if TYPE_CHECKING:
    import pandas


def records(*places: str | os.PathLike[str]) -> pandas.DataFrame:
    """Every answer, a row each; columns as in `runs.rows.rows`.

    Args:
        places: runs or sweeps, by path or by a pattern such as `outputs/sweeps/*`.

    Raises:
        UserError: no such folder.
        ValueError: a line that is no record of this version.
    """
    import pandas

    return pandas.DataFrame(rows(*places))


def points(*places: str | os.PathLike[str], by_task: bool = False) -> pandas.DataFrame:
    """Every cell, a row each, as in points.csv: its traits, accuracy with interval by the protocol, and compute.

    Args:
        places: as in `records`; a cell that lies in several is one.
        by_task: rows for every task and value of a tag as well, see column `task`.

    Raises:
        UserError: no such folder.
        ValueError: a line that is no record of this version.
    """
    import pandas

    runs = runs_in(*places)
    answers = [record for run in runs for record in load(run)]
    missing = [entry for run in runs for entry in load_out_of_memory(run)]
    found = cells.points(answers, by_task=by_task, out_of_memory=missing)
    return pandas.DataFrame(map(cells.point_row, found))
