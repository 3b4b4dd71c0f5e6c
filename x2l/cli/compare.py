"""`x2l-compare A [B]`: paired differences between cells that answered the same questions.

A and B are run or sweep folders; without B, cells of A are compared with each other. Where a folder holds
several cells, `--where` (both sides), `--a` and `--b` choose among them; of what is left, cells are paired that
agree in every field in which both sides still vary (the same top_k, say). Printed is B minus A in percentage points,
of the mean that the protocol names (over questions or over tasks) and on the questions that both sides count; intervals
and tests are clustered by video, p values also corrected by Holm for all pairs printed. Flips and n count questions.
With `--published`, cells of A stand beside what others reported of the same model, set and number of frames.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from x2l.analysis.cell_names import names
from x2l.analysis.comparison import CellRecords, compare, pair, read_cells
from x2l.analysis.comparison_table import FORMATS, closing, table, unequal_bytes, untested, wrapped
from x2l.analysis.points import points
from x2l.analysis.published import beside, entries, heading, published
from x2l.analysis.published import table as table_beside
from x2l.cli.output import command, fail, show
from x2l.runs.condition import Condition


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="x2l-compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder_a", type=Path, metavar="A", help="run or sweep")
    parser.add_argument("folder_b", type=Path, metavar="B", nargs="?", help="default: A")
    for side in ("a", "b"):
        parser.add_argument(
            f"--{side}",
            nargs="+",
            default=[],
            metavar="FIELD=VALUE",
            help=f"cells of {side.upper()}",
        )
    parser.add_argument(
        *("--where", "-w"),
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="cells of both sides",
    )
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="text", help="of the table (text)"
    )
    parser.add_argument(
        "--points", type=float, default=5.0, help="difference that `videos for` is about"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=0, metavar="DRAWS", help="interval by drawn videos, too"
    )
    parser.add_argument(
        "--published", action="store_true", help="cells of A beside the numbers of papers"
    )
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    options = parser.parse_args(arguments)
    with command():
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    try:
        a = read_cells(options.folder_a, _filters([*options.where, *options.a]))
        if options.published:
            show(_published(a, options))
            return
        b = read_cells(options.folder_b or options.folder_a, _filters([*options.where, *options.b]))
        comparisons = compare(pair(a, b), options.points, options.bootstrap)
    except ValueError as error:
        fail(str(error))
    if warning := unequal_bytes(comparisons):
        print(f"warning: {warning}", file=sys.stderr)
    if options.json:
        plain = [_plain(asdict(comparison)) for comparison in comparisons]
        show(json.dumps({"points": options.points, "comparisons": plain}, indent=1))
    else:
        notes = ["", *filter(None, map(wrapped, (closing(comparisons), untested(comparisons))))]
        rows = options.format == "csv"  # nothing else
        show(table(comparisons, options.points, options.format), *(() if rows else notes))


def _published(cells: Sequence[CellRecords], options: argparse.Namespace) -> str:
    if options.folder_b or options.b:
        raise ValueError(
            f"--published: must be of A alone, not of {options.folder_b or ' '.join(options.b)}; give one folder"
        )
    rows = points(record for cell in cells for record in cell.records)
    called = names(row.condition for row in rows)
    if not (groups := beside(rows)):
        raise ValueError(_nobody(x.condition for x in cells))
    if not options.json:
        return table_beside(groups, called, options.format)
    plain = [{"of": heading(group), "rows": entries(group, called)} for group in groups]
    return json.dumps({"published": plain}, indent=1)


def _nobody(conditions: Iterable[Condition]) -> str:
    """What is asked for, and what there is of the same models, or else of all."""
    cells = list(conditions)
    asked = {f"{c.model}, {c.benchmark}, {c.frames} frames" for c in cells}
    models = {Path(c.model).name.lower() for c in cells}
    known = [row for row in published() if row.frame_counts and row.checkpoint]
    of_these = [row for row in known if Path(row.checkpoint).name.lower() in models]
    there = {f"{row.checkpoint}, {row.benchmark}, {row.frames} frames" for row in of_these or known}
    return (
        f"--published: nobody reported a number of {'; '.join(sorted(asked))}; "
        f"there are those of {'; '.join(sorted(there))}"
    )


def _plain(value: Any) -> Any:
    """Values that JSON has words for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(of_key) for key, of_key in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _filters(words: Sequence[str]) -> dict[str, str]:
    if wrong := [word for word in words if "=" not in word]:
        raise ValueError(f"{wrong[0]}: must be FIELD=VALUE, e.g. selector=attention")
    return dict(word.partition("=")[::2] for word in words)


if __name__ == "__main__":
    main()
