"""`x2l-collect FOLDER...`: records of any set of runs -> table, points.csv, curve, sweep's run in a tracker.

Idempotent: it reads records and writes the same results again. Run it while a sweep is going, after
it, or after adding runs to it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from x2l.analysis.curves import NothingToDraw, draw, save, table
from x2l.analysis.lmms_eval import Line, export, parse_lines
from x2l.analysis.points import POINTS, Point, points, write_points
from x2l.analysis.sweep_tables import sweep_tables, sweep_title
from x2l.runs.out_of_memory_log import Shortage, in_short, load_shortages, unanswered
from x2l.runs.records import RECORDS, Record, load
from x2l.runs.sweep_status import find_runs, jobs, unfinished
from x2l.runs.trackers import tensorboard as tracking_tensorboard
from x2l.runs.trackers import wandb as tracking_wandb

TASK_POINTS = "points_by_task.csv"
LMMS_EVAL = "lmms_eval"
CURVES = ("curve.png", "curve.pdf")
TRACKERS = ("wandb", "tensorboard", "none")


def collect(
    folders: Sequence[Path],
    out: Path,
    tracker: str = "wandb",
    mode: str = "offline",
    project: str = "x2l",
    lmms_eval: bool = False,
    lines: Sequence[Line] = (),
) -> list[Point]:
    """Makes everything that follows from the records under `folders`.

    Args:
        folders: runs, or folders of runs at any depth.
        out: where points.csv, points_by_task.csv, curve.png and curve.pdf go; no figure, and no run of the
            tracker, but a warning where no cell has an accuracy.
        tracker: `wandb`, `tensorboard` or `none`.
        mode: of W&B.
        project: of W&B.
        lmms_eval: write every cell's answers as lmms-eval's samples files, under lmms_eval/.
        lines: what others reached, for the figure.

    Returns:
        One point per cell.

    Raises:
        ValueError: neither records nor shortages there, or a tracker that is not installed or cannot go online.
    """
    short = shortages_under(folders)
    records = records_under(folders, needed=not short)
    if tracker == "tensorboard":
        tracking_tensorboard.check_installed()
    elif tracker == "wandb":
        tracking_wandb.check_mode(mode)
    out.mkdir(parents=True, exist_ok=True)
    if lmms_eval:
        export(out / LMMS_EVAL, records)
    rows = points(records, shortages=short)
    write_points(out / POINTS, rows)
    task_rows = points(records, by_task=True, shortages=short)
    write_points(out / TASK_POINTS, task_rows)
    try:
        png, pdf = save(draw(rows, sweep_title(rows), lines), out)
    except NothingToDraw as error:
        for name in CURVES:  # an older figure would be of other records
            (out / name).unlink(missing_ok=True)
        print(f"warning: no figure: {error}", file=sys.stderr)
        return rows
    tables, files = sweep_tables(rows, task_rows), [out / POINTS, out / TASK_POINTS, png, pdf]
    if tracker == "wandb":
        tracking_wandb.track_sweep(out, tables, png, files, mode, project)
    elif tracker == "tensorboard":
        tracking_tensorboard.track_sweep(out, tables, png, files)
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


def shortages_under(folders: Sequence[Path]) -> list[Shortage]:
    """The answers that ran out of memory in every run at or under the given folders, and are still missing."""
    found = []
    for run in find_runs(folders):
        if short := load_shortages(run):
            found += unanswered(short, load(run))
    return found


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 1 when a run is not done, 2 when there is none."""
    parser = argparse.ArgumentParser(prog="x2l-collect", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="runs or sweeps")
    parser.add_argument("--out", type=Path, help="where results go; default: the first folder")
    parser.add_argument("--tracker", choices=TRACKERS, default="wandb")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="of W&B")
    parser.add_argument("--project", default="x2l", help="of W&B")
    parser.add_argument(
        "--lmms-eval", action="store_true", help="write lmms-eval's samples files as well"
    )
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a samples file of lmms-eval as one more line; may be repeated",
    )
    options = parser.parse_args(arguments)
    out = options.out or options.folders[0]
    for folder in options.folders:
        if not folder.is_dir():
            _fail(f"folders={folder}: no such folder; give a folder that x2l wrote")
    try:
        lines = parse_lines(options.add, records_under(options.folders, needed=bool(options.add)))
        rows = collect(
            options.folders,
            out,
            options.tracker,
            options.mode,
            options.project,
            options.lmms_eval,
            lines,
        )
    except ValueError as error:
        _fail(str(error))
    print(table(rows, lines))
    drawn = [out / name for name in CURVES if (out / name).exists()]
    print("", *(out / POINTS, out / TASK_POINTS, *drawn), sep="\n")
    if options.lmms_eval:
        print(f"{out / LMMS_EVAL}/*/*_samples_*.jsonl")
    if options.tracker == "wandb" and drawn:
        print(f"{out / tracking_wandb.HOME} (W&B, {options.mode})")
        if upload := tracking_wandb.upload_command([out, *options.folders]):
            print(f"\nto upload every run to W&B: {upload}")
    if options.tracker == "tensorboard" and drawn:
        print(f"\nto look at it: tensorboard --logdir {options.folders[0]}")
    if short := in_short(shortages_under(options.folders)):
        print("\nout of memory:\n  " + "\n  ".join(short), file=sys.stderr)
    problems = unfinished(jobs(options.folders))
    if problems:
        print("\nnot done:\n  " + "\n  ".join(problems), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
