"""`x2l-compare A [B]`: paired differences between cells that answered the same questions.

A and B are run or sweep folders; without B, cells of A are compared with each other. Where a folder holds
several cells, `--a` and `--b` choose among them; of what is left, cells are paired that agree in every field in
which both sides still vary (the same top_k, say). Printed is B minus A in percentage points; intervals and tests
are clustered by video, p values also corrected by Holm for all pairs printed.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from x2l.comparison import (
    FIELDS,
    LAST_RESORT,
    Comparison,
    compare,
    pair,
    read_cells,
    text,
)
from x2l.statistics import Difference


def table(found: Sequence[Comparison], points: float = 5.0) -> str:
    """Comparisons as text: what all share, then a line for each; percentages and percentage points."""
    constant_a, varying_a = _split([one.a for one in found])
    constant_b, varying_b = _split([one.b for one in found])
    shared = {n: v for n, v in constant_a.items() if n in constant_b and constant_b[n] == v}
    # A field that is equal within every pair is named once.
    equal = [n for n in varying_a if n in varying_b and all(one.a[n] == one.b[n] for one in found)]
    columns: dict[str, list[str]] = {name: [text(one.a[name]) for one in found] for name in equal}
    for side, names in (("A", varying_a), ("B", varying_b)):
        for name in (name for name in names if name not in equal):
            cells = [one.a if side == "A" else one.b for one in found]
            columns[f"{side} {name}"] = [text(cell[name]) for cell in cells]
    columns["A %"] = [_percent(one.accuracies[0].value) for one in found]
    columns["B %"] = [_percent(one.accuracies[1].value) for one in found]
    columns["B - A (95 %)"] = [_interval(one.micro) for one in found]
    if drawn := [one.bootstrap for one in found if one.bootstrap is not None]:
        columns["bootstrap"] = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in drawn]
    columns["right>wrong"] = [str(one.micro.lost) for one in found]
    columns["wrong>right"] = [str(one.micro.gained) for one in found]
    columns["n"] = [str(one.micro.count) for one in found]
    columns["videos"] = [str(one.micro.videos) for one in found]
    columns["p"] = [_p(one.micro.p_value) for one in found]
    columns["p Holm"] = [_p(one.p_holm) for one in found]
    if any(_interval(one.macro) != _interval(one.micro) for one in found):
        columns["macro A %"] = [_percent(one.accuracies[2].value) for one in found]
        columns["macro B %"] = [_percent(one.accuracies[3].value) for one in found]
        columns["macro B - A (95 %)"] = [_interval(one.macro) for one in found]
    columns["KV % A"] = [_percent(one.kv_share_a) for one in found]
    columns["KV % B"] = [_percent(one.kv_share_b) for one in found]
    for side, recalls in (
        ("A", [one.recall_a for one in found]),
        ("B", [one.recall_b for one in found]),
    ):
        if not all(map(math.isnan, recalls)):
            columns[f"recall {side}"] = [f"{recall:.2f}" for recall in recalls]
    columns["design effect"] = [f"{one.micro.design_effect:.2f}" for one in found]
    columns[f"videos for {points:g} pt"] = [
        "-" if one.videos_needed is None else str(one.videos_needed) for one in found
    ]
    for name, counts in (
        ("only in A", [one.only_a for one in found]),
        ("only in B", [one.only_b for one in found]),
        ("unparsed A", [one.unparsed_a for one in found]),
        ("unparsed B", [one.unparsed_b for one in found]),
    ):
        if any(counts):
            columns[name] = [str(count) for count in counts]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for widths in [[max(map(len, [name, *cells])) for name, cells in columns.items()]]
        for line in [list(columns), *zip(*columns.values(), strict=True)]
    ]
    heads = [f"both: {_words(shared)}"]
    for side, constant in (("A", constant_a), ("B", constant_b)):
        own = {name: value for name, value in constant.items() if name not in shared}
        heads += [f"{side}: {_words(own)}"] if own else []
    return "\n".join([*heads, "", *lines])


def _split(cells: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What all cells share, and the names of the fields in which they vary."""
    varying = [name for name in FIELDS if len({cell[name] for cell in cells}) > 1]
    if not varying and len({tuple(cell.items()) for cell in cells}) > 1:
        varying = [name for name in LAST_RESORT if len({cell[name] for cell in cells}) > 1]
    return {name: cells[0][name] for name in FIELDS if name not in varying}, varying


def _words(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {text(value)}" for name, value in fields.items() if value != "")


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _interval(found: Difference) -> str:
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _plain(value: Any) -> Any:
    """Values that JSON has words for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(of_key) for key, of_key in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _filters(words: Sequence[str]) -> dict[str, str]:
    found = dict(word.partition("=")[::2] for word in words)
    if empty := [name for name, value in found.items() if not value]:
        raise ValueError(f"{empty[0]}: must be FIELD=VALUE, e.g. selector=attention")
    return found


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


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
        "--points", type=float, default=5.0, help="difference that `videos for` is about"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=0, metavar="DRAWS", help="interval by drawn videos, too"
    )
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    options = parser.parse_args(arguments)
    try:
        a = read_cells(options.folder_a, _filters(options.a))
        b = read_cells(options.folder_b or options.folder_a, _filters(options.b))
        found = compare(pair(a, b), options.points, options.bootstrap)
    except ValueError as error:
        _fail(str(error))
    if options.json:
        values = {"points": options.points, "comparisons": [_plain(asdict(one)) for one in found]}
        print(json.dumps(values, indent=1))
    else:
        print(table(found, options.points))
        lost = max(one.only_a + one.only_b for one in found)
        print(
            "\nEvery question was answered on both sides."
            if lost == 0
            else f"\nLeft out: questions that only one side answered, up to {lost} in a comparison."
        )


if __name__ == "__main__":
    main()
