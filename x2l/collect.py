"""`x2l-collect FOLDER...`: records of any set of runs -> table, points.csv, curve, sweep's W&B run.

Idempotent: it reads records and writes the same results again. Run it while a sweep is going, after
it, or after adding runs to it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from x2l.curves import NothingToDraw, draw, save, table
from x2l.lmms_eval import Line, export, parse_lines
from x2l.points import (
    FULL,
    POINTS,
    WORDS,
    Point,
    of_several_settings,
    points,
    telling_apart,
    write_points,
)
from x2l.records import RECORDS, Record, load
from x2l.runinfo import STATUS
from x2l.tracking import track_curve

TASK_POINTS = "points_by_task.csv"
LMMS_EVAL = "lmms_eval"
CURVES = ("curve.png", "curve.pdf")


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
        tracker: `wandb` or `none`.
        mode: of W&B.
        project: of W&B.
        lmms_eval: write every cell's answers as lmms-eval's samples files, under lmms_eval/.
        lines: what others reached, for the figure.

    Returns:
        One point per cell.

    Raises:
        ValueError: no records there.
    """
    records = records_under(folders)
    out.mkdir(parents=True, exist_ok=True)
    if lmms_eval:
        export(out / LMMS_EVAL, records)
    rows = points(records)
    write_points(out / POINTS, rows)
    write_points(out / TASK_POINTS, points(records, by_task=True))
    title = _title(rows)
    try:
        png, _ = save(draw(rows, title, lines), out)
    except NothingToDraw as error:
        for name in CURVES:  # an older figure would be of other records
            (out / name).unlink(missing_ok=True)
        print(f"warning: no figure: {error}", file=sys.stderr)
        return rows
    if tracker == "wandb":
        track_curve(out, title, *_chart(rows), picture=png, mode=mode, project=project)
    return rows


def records_under(folders: Sequence[Path]) -> list[Record]:
    """The records of every run at or under the given folders.

    Raises:
        ValueError: there are none.
    """
    records = [record for run in find_runs(folders) for record in load(run)]
    if not records:
        named = ", ".join(map(str, folders))
        raise ValueError(f"folders={named}: hold no {RECORDS} with an answer; run x2l first")
    return records


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Every folder with records or a status at or under the given ones, sorted, once each."""
    found = {
        file.parent.resolve()
        for folder in folders
        for name in (RECORDS, STATUS)
        for file in folder.rglob(name)
    }
    return sorted(found)


def unfinished(runs: Sequence[Path]) -> list[str]:
    """One line for each run that is not simply done: it failed, was cut off, or had bad videos."""
    lines = []
    for run in runs:
        path = run / STATUS
        status = json.loads(path.read_text()) if path.exists() else {"state": "unknown"}
        state = status["state"]
        if state == "done":
            continue
        answered = f"{status.get('records', 0)} of {status.get('expected', '?')} answers"
        note = "running, or killed" if state == "running" else state
        reason = f": {status['error']}" if status.get("error") else ""
        remedy = "" if status.get("records") else "; run it again, or remove the folder"
        lines.append(f"{run.name}: {note}, {answered}{reason}{remedy}")
    return lines


def _title(rows: Sequence[Point]) -> str:
    def values(name: str, form: str) -> str:
        return ", ".join(form.format(value) for value in sorted({getattr(r, name) for r in rows}))

    compressed = [row for row in rows if row.control != FULL] or rows
    low = sorted({row.ratio_low for row in compressed})
    videos = max(row.videos for row in rows)
    ratios = f"low {low[0]:g}x" if len(low) == 1 else ""
    high = sorted({row.ratio_high for row in compressed})
    ratios += f", high {high[0]:g}x" if len(high) == 1 else ""
    parts = [
        values("benchmark", "{}"),
        values("model", "{}"),
        f"{videos} videos of {values('frames', '{:.0f}')} frames",
        ratios.strip(", "),
    ]
    return " · ".join(part for part in parts if part)


def _chart(rows: Sequence[Point]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the W&B table; `line` names the line that a point belongs to."""
    selecting = [row for row in rows if not row.control]
    names, several = telling_apart(selecting), of_several_settings(selecting)
    columns = ["line", "top_k", "kv_percent", "accuracy_percent", "low_percent", "high_percent"]
    columns += ["n", "gflops", "recall", "compressor", "selector", *names]
    table_rows: list[list[object]] = []
    for row in sorted(rows, key=lambda r: r.kv_share):
        told = [n for n in names if n != "selector_config" or row.selector in several]
        words = [WORDS[name].format(getattr(row, name)) for name in told]
        method = [row.compressor, row.control or row.selector, *words]
        line = FULL if row.control == FULL else " ".join(method)
        table_rows.append(
            [
                line,
                "" if row.top_k is None else str(row.top_k),
                100 * row.kv_share,
                100 * row.accuracy,
                100 * row.low,
                100 * row.high,
                row.n,
                row.flops * 1e-9,
                row.recall,
                row.compressor,
                row.selector,
                *(getattr(row, name) for name in names),
            ]
        )
    return columns, table_rows


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 1 when a run is not done, 2 when there is none."""
    parser = argparse.ArgumentParser(prog="x2l-collect", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="runs or sweeps")
    parser.add_argument("--out", type=Path, help="where results go; default: the first folder")
    parser.add_argument("--tracker", choices=("wandb", "none"), default="wandb")
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
        lines = parse_lines(options.add, records_under(options.folders))
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
        print(f"{out / 'wandb'} (W&B, {options.mode})")
    problems = unfinished(find_runs(options.folders))
    if problems:
        print("\nnot done:\n  " + "\n  ".join(problems), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
