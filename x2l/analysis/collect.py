"""Records of any set of runs -> points.csv, curve, the sweep's run in a tracker. Idempotent."""

import sys
from collections.abc import Sequence
from pathlib import Path

from x2l.analysis.curves import NothingToDraw, draw, save
from x2l.analysis.lmms_eval import ReferenceLine, export
from x2l.analysis.points import POINTS, Point, points, write_points
from x2l.analysis.sweep_tables import sweep_tables, sweep_title
from x2l.runs.out_of_memory_log import OutOfMemory, load_out_of_memory, unanswered
from x2l.runs.records import RECORDS, Record, load
from x2l.runs.sweep_status import find_runs
from x2l.runs.trackers.base import Tracker

TASK_POINTS = "points_by_task.csv"
LMMS_EVAL = "lmms_eval"
CURVES = ("curve.png", "curve.pdf")


def collect(
    folders: Sequence[Path],
    out: Path,
    tracker: Tracker | None = None,
    lmms_eval: bool = False,
    references: Sequence[ReferenceLine] = (),
) -> list[Point]:
    """Makes everything that follows from the records under `folders`.

    Args:
        folders: runs, or folders of runs at any depth.
        out: where points.csv, points_by_task.csv, curve.png and curve.pdf go; no figure, and no run of the
            tracker, but a warning where no cell has an accuracy.
        tracker: made with `sweep_run(out)`; None = none.
        lmms_eval: write every cell's answers as lmms-eval's samples files, under lmms_eval/.
        references: what others reached, for the figure.

    Returns:
        One point per cell.

    Raises:
        ValueError: nothing was answered there and nothing ran out of memory.
    """
    missing = out_of_memory_under(folders)
    records = records_under(folders, needed=not missing)
    out.mkdir(parents=True, exist_ok=True)
    if lmms_eval:
        export(out / LMMS_EVAL, records)
    rows = points(records, out_of_memory=missing)
    write_points(out / POINTS, rows)
    task_rows = points(records, by_task=True, out_of_memory=missing)
    write_points(out / TASK_POINTS, task_rows)
    try:
        png, pdf = save(draw(rows, sweep_title(rows), references), out)
    except NothingToDraw as error:
        for name in CURVES:  # an older figure would be of other records
            (out / name).unlink(missing_ok=True)
        print(f"warning: no figure: {error}", file=sys.stderr)
        return rows
    if tracker is not None:
        files = [out / POINTS, out / TASK_POINTS, png, pdf]
        tracker.track_sweep(sweep_tables(rows, task_rows), png, files)
    return rows


def records_under(folders: Sequence[Path], needed: bool = True) -> list[Record]:
    """The records of every run at or under the given folders.

    Raises:
        ValueError: there are none, but they are needed.
    """
    records = [record for run in find_runs(folders) for record in load(run)]
    if needed and not records:
        named = ", ".join(map(str, folders))
        raise ValueError(f"folders={named}: hold no {RECORDS} with an answer; run x2l first")
    return records


def out_of_memory_under(folders: Sequence[Path]) -> list[OutOfMemory]:
    """The answers that ran out of memory in every run at or under the given folders, and are still missing."""
    missing = []
    for run in find_runs(folders):
        if entries := load_out_of_memory(run):
            missing += unanswered(entries, load(run))
    return missing
