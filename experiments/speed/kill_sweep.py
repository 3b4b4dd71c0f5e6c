"""Kills a sweep with SIGKILL at random moments, starts it again each time, and compares with an uncut one.

    python -m experiments.speed.kill_sweep --kills 50

Checked after every kill: each record whose append had returned is on disk, once; status.json claims no
more records than there are. At the end: all records equal those of the uncut sweep, timings aside. Every
child is forked from this process, which has the libraries imported; it runs `x2l -m ...` as the console
script does, and reports each append through a pipe after it has returned. A finished sweep is compared and a
new one begun. Power cuts are something else: nothing is synchronised to the disk after every record.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.cli import compose, run
from x2l.runs import condition
from x2l.runs.job_status import read_status
from x2l.runs.records import (
    RECORDS,
    Record,
    RecordKey,
    RecordWriter,
    deterministic,
    load,
    read_json_lines,
)
from x2l.runs.run_info import processor_name, write_json
from x2l.runs.sweep_status import find_runs, jobs

SWEEP = ["compressor=key_norm,tome", "levels.high.ratio=8,32", "selector=[none,oracle,random]"]
SWEEP += ["top_k=[1,2]", "benchmark.videos=16", "benchmark.seconds=64", "max_new_tokens=4"]


@dataclass(frozen=True)
class Kill:
    """What was found after one kill."""

    seconds: float  # from the start of the child
    doing: str  # what the job at hand had told last
    answers: int  # on disk
    new: int  # reported as written by this child
    lost: int  # of all that were ever reported in this sweep
    doubled: int
    claimed_too_many: int  # by status.json
    torn: int  # lines cut off in mid-write, so far
    state: str  # what x2l-status says of the job at hand

    @property
    def line(self) -> str:
        """For the results."""
        return f"{self.seconds:.1f} s, {self.doing}: {self.answers} on disk, {self.new} of this child; {self.state}"


def sweep(folder: Path, overrides: Sequence[str], report: int) -> None:
    """The sweep, as the console script runs it; writes the key of each record to `report` once it is appended."""
    append = RecordWriter.append

    def reported(self: RecordWriter, record: Record) -> None:
        append(self, record)
        of_key = condition.to_json(record.condition) | {"sample_id": record.question.sample_id}
        os.write(report, (json.dumps(of_key) + "\n").encode())

    RecordWriter.append = reported  # type: ignore[method-assign]
    sys.argv = ["x2l", "-m", *overrides, "tracker=none", f"hydra.sweep.dir={folder}"]
    run.main()


@contextmanager
def child(folder: Path, overrides: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Forks a process that runs the sweep; gives its number and the end of the pipe that it reports to."""
    read, write = os.pipe()
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        os.close(read)
        code = 1
        try:
            with (folder.parent / "log").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                sweep(folder, overrides, write)
                code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)  # what the parent has open is not this process's to end
    os.close(write)
    try:
        yield number, read
    finally:
        os.close(read)


def everything(pipe: int) -> list[RecordKey]:
    """The keys that an ended child has reported."""
    with os.fdopen(os.dup(pipe)) as lines:
        return [key_of(json.loads(line)) for line in lines]


def key_of(values: Mapping[str, Any]) -> RecordKey:
    """The key in a record's line, or in a report of it."""
    return condition.from_json(values), values["sample_id"]


def uncut(folder: Path, overrides: Sequence[str]) -> tuple[float, float]:
    """Runs the sweep to its end; returns the seconds until its first and its last record."""
    start = time.monotonic()
    with child(folder, overrides) as (number, pipe):
        with os.fdopen(os.dup(pipe)) as lines:
            times = [time.monotonic() - start for _ in lines]
        _, code = os.waitpid(number, 0)
    if code:
        raise SystemExit(f"the sweep failed: see {folder.parent / 'log'}")
    return (times[0], times[-1]) if times else (0.0, 0.0)


def prepare(overrides: Sequence[str]) -> None:
    """Makes the videos, and has imported here, once for all children, whatever a sweep imports."""
    from x2l.evaluation import runner  # noqa: F401
    from x2l.models.loading import load

    load("x2l_tiny")
    own = [override for override in overrides if override.startswith("benchmark.")]
    compose.build_benchmark(compose.composed(own)).prepare()


def keys(folder: Path) -> list[RecordKey]:
    """The keys of all whole lines of a sweep, as often as they are there."""
    return [
        key_of(values)
        for run_folder in find_runs([folder])
        for _, values in read_json_lines(run_folder / RECORDS)
    ]


def torn(folder: Path) -> int:
    """Lines that a kill has cut off."""
    files = [run_folder / RECORDS for run_folder in find_runs([folder])]
    lines = sum(len(f.read_bytes().splitlines()) for f in files if f.exists())
    return lines - len(keys(folder))


def differing(folder: Path, whole: Path) -> int:
    """Records of either sweep that the other has not, timings aside."""
    mine, theirs = (
        {r.key: deterministic(r) for one in find_runs([place]) for r in load(one)}
        for place in (folder, whole)
    )
    return sum(mine.get(key) != theirs.get(key) for key in mine.keys() | theirs.keys())


def found_after(
    folder: Path, seconds: float, new: Sequence[RecordKey], ever: set[RecordKey]
) -> Kill:
    """What a kill has left behind; `ever` are the records reported by all children of this sweep."""
    there = Counter(keys(folder))
    status = {one: read_status(one) or {} for one in find_runs([folder])}
    too_many = sum(
        max(0, values.get("records", 0) - len(keys(one))) for one, values in status.items()
    )
    at_hand = max(status.values(), key=lambda values: values.get("updated", ""), default={})
    doing = at_hand.get("doing") or {"done": "between two jobs"}.get(
        at_hand.get("state", "nothing"), "nothing written yet"
    )
    states = {job.state for job in jobs([folder])} - {"done", "not-started"}
    return Kill(
        round(seconds, 3),
        doing,
        sum(there.values()),
        len(new),
        len(ever - there.keys()),
        sum(number - 1 for number in there.values()),
        too_many,
        torn(folder),
        "+".join(sorted(states)) or "none",
    )


def kills(folder: Path, overrides: Sequence[str], number: int, seed: int) -> dict[str, Any]:
    """Kills the sweep `number` times; returns what was found."""
    draw = random.Random(seed)
    prepare(overrides)
    first, last = uncut(folder / "uncut", overrides)
    print(f"uncut: {len(keys(folder / 'uncut'))} records in {last:.1f} s, the first in {first:.1f}")
    found: list[Kill] = []
    compared: list[int] = []
    ever: set[RecordKey] = set()
    place = folder / "killed-0"
    while len(found) < number:
        delay = draw.uniform(0, first + (last - first) / 4)
        start = time.monotonic()
        with child(place, overrides) as (process, pipe):
            time.sleep(delay)
            ended, _ = os.waitpid(process, os.WNOHANG)
            if not ended:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            seconds = time.monotonic() - start
            new = everything(pipe)
        ever |= set(new)
        if ended:
            compared.append(differing(place, folder / "uncut"))
            print(f"a sweep of {len(keys(place))} records ended; {compared[-1]} differ")
            place, ever = folder / f"killed-{len(compared)}", set()
            continue
        found.append(found_after(place, seconds, new, ever))
        print(f"kill {len(found)}: {found[-1]}", flush=True)
    uncut(place, overrides)  # what is still missing
    compared.append(differing(place, folder / "uncut"))
    return {
        "kills": len(found),
        "sweeps": len(compared),
        "records": len(keys(folder / "uncut")),
        "reported": sum(kill.new for kill in found),
        "children_with_records": sum(kill.new > 0 for kill in found),
        "lost": sum(kill.lost for kill in found),
        "doubled": max([kill.doubled for kill in found])
        + max(len(keys(one)) - len(set(keys(one))) for one in folder.glob("killed-*")),
        "claimed_too_many": sum(kill.claimed_too_many for kill in found),
        "torn": sum(torn(one) for one in folder.glob("killed-*")),
        "differing": sum(compared),
        "moments": dict(Counter(kill.doing for kill in found)),
        "states": dict(Counter(kill.state for kill in found)),
        "seconds_uncut": round(last, 1),
        "each": [kill.line for kill in found],
    }


def main() -> None:
    """Runs it; exit status 1 if anything was lost, doubled or different."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/kill_sweep"))
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("overrides", nargs="*", default=SWEEP, help="of the sweep")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    start = time.monotonic()
    result = kills(options.folder.resolve(), options.overrides, options.kills, options.seed)
    result |= {"seconds": round(time.monotonic() - start, 1), "processor": processor_name()}
    result |= {"seed": options.seed, "overrides": options.overrides}
    print({name: value for name, value in result.items() if name != "each"})
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)
    wrong = ("lost", "doubled", "claimed_too_many", "differing")
    sys.exit(1 if any(result[name] for name in wrong) else 0)


if __name__ == "__main__":
    main()
