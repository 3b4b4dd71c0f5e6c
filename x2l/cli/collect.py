"""`x2l-collect FOLDER...`: records of any set of runs -> table, points.csv, curve, sweep's run in a tracker.

Idempotent: it reads records and writes the same results again. Run it while a sweep is going, after
it, or after adding runs to it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from x2l.analysis.collect import (
    CURVES,
    LMMS_EVAL,
    TASK_POINTS,
    collect,
    out_of_memory_under,
    records_under,
)
from x2l.analysis.lmms_eval import parse_lines
from x2l.analysis.points import POINTS
from x2l.analysis.points_table import table
from x2l.cli.compose import build, composed
from x2l.cli.output import command, fail, show
from x2l.runs.out_of_memory_log import summary_lines
from x2l.runs.pasted import override
from x2l.runs.sweep_status import jobs, unfinished
from x2l.runs.trackers.base import Tracker, sweep_run


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 1 when a run is not done, 2 when there is none."""
    parser = argparse.ArgumentParser(prog="x2l-collect", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="runs or sweeps")
    parser.add_argument("--out", type=Path, help="where results go; default: the first folder")
    parser.add_argument(
        "--tracker", default="wandb", help="a name in conf/tracker; default: %(default)s"
    )
    for name in ("mode", "project"):
        parser.add_argument(f"--{name}", help="of W&B; default: as conf/tracker/wandb.yaml says")
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
    with command():
        _collect(options)


def _collect(options: argparse.Namespace) -> None:
    out = options.out or options.folders[0]
    for folder in options.folders:
        if not folder.is_dir():
            fail(f"folders={folder}: no such folder; give a folder that x2l wrote")
    try:
        references = parse_lines(
            options.add, records_under(options.folders, needed=bool(options.add))
        )
        settings = {"mode": options.mode, "project": options.project}
        tracker = _tracker(options.tracker, settings, out)
        rows = collect(options.folders, out, tracker, options.lmms_eval, references)
    except ValueError as error:
        fail(str(error))
    show(table(rows, references))
    drawn = [out / name for name in CURVES if (out / name).exists()]
    show("", *map(str, (out / POINTS, out / TASK_POINTS, *drawn)))
    if options.lmms_eval:
        show(f"{out / LMMS_EVAL}/*/*_samples_*.jsonl")
    if drawn:
        for line in tracker.how_to_see(options.folders):
            show(line)
    if missing := summary_lines(out_of_memory_under(options.folders)):
        print("\nout of memory:\n  " + "\n  ".join(missing), file=sys.stderr)
    problems = unfinished(jobs(options.folders))
    if problems:
        print("\nnot done:\n  " + "\n  ".join(problems), file=sys.stderr)
        sys.exit(1)


def _tracker(name: str, settings: Mapping[str, str | None], out: Path) -> Tracker:
    """The run of the sweep, by a tracker as `x2l tracker=NAME tracker.SETTING=...` would name it."""
    overrides = [
        override(f"tracker.{key}", value) for key, value in settings.items() if value is not None
    ]
    tracker: Tracker = build(composed([override("tracker", name), *overrides]).tracker, "tracker")(
        **sweep_run(out)
    )
    return tracker


if __name__ == "__main__":
    main()
