"""`x2l-collect FOLDER...`: records of any set of runs -> table, points.csv, curve, sweep's run in a tracker.

Idempotent: it reads records and writes the same results again. Run it while a sweep is going, after
it, or after adding runs to it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from x2l.analysis.collect import (
    CURVES,
    LMMS_EVAL,
    TASK_POINTS,
    TRACKERS,
    collect,
    out_of_memory_under,
    records_under,
)
from x2l.analysis.lmms_eval import parse_lines
from x2l.analysis.points import POINTS
from x2l.analysis.points_table import table
from x2l.cli.output import fail, show
from x2l.runs.out_of_memory_log import summary_lines
from x2l.runs.sweep_status import jobs, unfinished
from x2l.runs.trackers import wandb as tracking_wandb


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
            fail(f"folders={folder}: no such folder; give a folder that x2l wrote")
    try:
        references = parse_lines(
            options.add, records_under(options.folders, needed=bool(options.add))
        )
        rows = collect(
            options.folders,
            out,
            options.tracker,
            options.mode,
            options.project,
            options.lmms_eval,
            references,
        )
    except ValueError as error:
        fail(str(error))
    show(table(rows, references))
    drawn = [out / name for name in CURVES if (out / name).exists()]
    show("", *map(str, (out / POINTS, out / TASK_POINTS, *drawn)))
    if options.lmms_eval:
        show(f"{out / LMMS_EVAL}/*/*_samples_*.jsonl")
    if options.tracker == "wandb" and drawn:
        show(f"{out / tracking_wandb.HOME} (W&B, {options.mode})")
        if upload := tracking_wandb.upload_command([out, *options.folders]):
            show(f"\nto upload every run to W&B: {upload}")
    if options.tracker == "tensorboard" and drawn:
        show(f"\nto look at it: tensorboard --logdir {options.folders[0]}")
    if short := summary_lines(out_of_memory_under(options.folders)):
        print("\nout of memory:\n  " + "\n  ".join(short), file=sys.stderr)
    problems = unfinished(jobs(options.folders))
    if problems:
        print("\nnot done:\n  " + "\n  ".join(problems), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
