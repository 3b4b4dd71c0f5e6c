"""Feeds x2l what nobody should feed it and counts how it ends.

    python -m experiments.fuzz.run                        # all of it, about an hour on two cores
    python -m experiments.fuzz.run videos --share 0.1     # every tenth case of a part
    python -m experiments.fuzz.run --json counts.json     # also as a file

Parts: overrides (every key of the configuration with ten wrong values), annotations (every field of every layout with
eleven), videos (mutated, joined, cut and shifted files), commands (closed streams, read-only folders, odd names,
locales, no home). A case ends read or refused in one line; a traceback, a status above 2, frames of another time or a
value of a wrong type that is taken are faults, and named.
"""

import argparse
import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ENDINGS = (
    "read",
    "refused",
    "unknowable",
)  # the last: nothing in a video file says that bytes of a picture changed
PARTS = ("overrides", "annotations", "videos", "commands")
# (name of the case, how it ended: read, refused, unknowable, or what is wrong)
Ending = tuple[str, str]
Cases = Callable[[float], Iterator[Ending]]


def counts(part: str, share: float) -> tuple[Counter[str], list[str]]:
    """How the cases of a part ended, and those that ended as none may."""
    cases: Cases = importlib.import_module(f"experiments.fuzz.{part}").cases
    ended, faults, told = Counter[str](), [], time.perf_counter()
    for name, ending in cases(share):
        good = ending in ENDINGS
        ended[ending if good else "fault"] += 1
        if not good:
            faults.append(f"{part}: {name}: {ending}")
            print(faults[-1], file=sys.stderr, flush=True)
        if time.perf_counter() - told > 60:
            told = time.perf_counter()
            print(f"{part}: so far {dict(ended)}", file=sys.stderr, flush=True)
    return ended, faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; 1 if there is a fault."""
    parser = argparse.ArgumentParser(
        prog="experiments.fuzz.run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all, if none is given")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases, evenly spread")
    parser.add_argument("--json", type=Path, help="counts as a file")
    values = parser.parse_args(arguments)
    if unknown := sorted(set(values.parts) - set(PARTS)):
        parser.error(f"{', '.join(unknown)}: no such part; there are {', '.join(PARTS)}")
    table, all_faults = {}, []
    for part in values.parts or PARTS:
        start = time.perf_counter()
        ended, faults = counts(part, values.share)
        table[part] = {name: ended[name] for name in (*ENDINGS, "fault")}
        all_faults += faults
        print(f"{part:12s} {table[part]}  {time.perf_counter() - start:.0f} s", flush=True)
    if values.json:
        text = json.dumps({"share": values.share, "parts": table, "faults": all_faults}, indent=1)
        values.json.write_text(text + "\n")
    return 1 if all_faults else 0


def spread(items: Sequence[object], share: float) -> list[object]:
    """Some of the items, evenly."""
    count = max(1, round(len(items) * share))
    return [items[int(index * len(items) / count)] for index in range(count)]


if __name__ == "__main__":
    sys.exit(main())
