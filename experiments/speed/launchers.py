"""One small sweep through every engine on this machine: seconds, overhead of a job, and whether records are the same.

    python -m experiments.speed.launchers    # -> experiments/results/launchers/table.md, points.json

Needs the extras joblib, slurm and ray; a SLURM is used if `sinfo` answers. Every job answers in one thread. An engine
that cannot be had is left out, with the reason. `overhead` of a job is what a place for jobs was not answering, over
the sweep's jobs: (seconds x jobs at once - seconds of answering) / jobs; it holds imports, loading the model, waiting
for the engine, and a place that idles at the end. `again`: the same command once more, which finds nothing missing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from x2l.cli.compose import CONF, build_benchmark, composed
from x2l.cli.launchers import check_launcher
from x2l.evaluation.settings import ConfigError
from x2l.runs.job_status import read_status
from x2l.runs.records import deterministic, load
from x2l.runs.run_info import now, processor_name, write_json
from x2l.runs.sweep_status import find_runs

RESULTS = Path(__file__).parents[1] / "results" / "launchers"
SWEEP = ["compressor=key_norm,tome", "levels.high.ratio=8,32"]
SETTINGS = ["benchmark.videos=4", "selector=[all,none,oracle,random]", "top_k=2"]
ENGINES = {
    "basic": (),
    "joblib": (),
    "submitit_local": (),
    "submitit_slurm": (
        "hydra.launcher.gpus_per_node=null",
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.mem_gb=2",
        "hydra.launcher.array_parallelism=2",
    ),
    "ray": ("hydra.launcher.ray.init.num_cpus=2",),
}


@dataclass(frozen=True)
class Timed:
    """One engine.

    Attributes:
        engine: preset of conf/hydra/launcher/.
        at_once: jobs that it ran at the same time.
        jobs: of the sweep.
        seconds: of the whole command.
        answering: seconds, of all jobs together, from the loaded model to the last answer.
        overhead: seconds a job, see above.
        again: seconds of the same command once more.
        records: of the sweep.
        identical: whether they are those of the first engine, timings and memory aside.
    """

    engine: str
    at_once: int
    jobs: int
    seconds: float
    answering: float
    overhead: float
    again: float
    records: int
    identical: bool


def unavailable(engine: str) -> str | None:
    """Why an engine cannot be used here; None if it can."""
    if engine == "basic":
        return None
    text = (CONF / "hydra" / "launcher" / f"{engine}.yaml").read_text()
    target = next(line.split()[1] for line in text.splitlines() if line.startswith("_target_:"))
    try:
        check_launcher(engine, target)
    except ConfigError as error:
        return str(error)
    if engine != "submitit_slurm":
        return None
    done = subprocess.run(["sinfo"], capture_output=True, text=True, check=False)
    return f"sinfo: {done.stderr.strip()}" if done.returncode else None


def command(engine: str, sweep: Path, overrides: Sequence[str]) -> list[str]:
    """The console script `x2l -m` with this interpreter."""
    given = [f"hydra/launcher={engine}", *ENGINES[engine], f"hydra.sweep.dir={sweep}"]
    return [sys.executable, "-c", "from x2l.cli.run import main; main()", "-m", *given, *overrides]


def environment() -> dict[str, str]:
    """Of a sweep: two jobs at once, one thread each, x2l from this checkout."""
    root = str(Path(__file__).resolve().parents[2])
    own = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "X2L_JOBS": "2", "RAY_AUTH_MODE": "disabled"}
    return {**os.environ, **own}


def run_sweep(engine: str, sweep: Path, overrides: Sequence[str]) -> float:
    """Seconds of one command.

    Raises:
        RuntimeError: it did not end well.
    """
    start = time.perf_counter()
    done = subprocess.run(
        command(engine, sweep, overrides),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{engine}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def answers(sweep: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """What every record under a folder says but for timings and memory, by its key."""
    return {record.key: deterministic(record) for run in find_runs([sweep]) for record in load(run)}


def measure(engine: str, folder: Path, overrides: Sequence[str]) -> Timed:
    """One engine in a folder of its own; what it answers stands for comparison if it is the first."""
    sweep = folder / engine
    shutil.rmtree(sweep, ignore_errors=True)
    seconds = run_sweep(engine, sweep, overrides)
    runs = find_runs([sweep])
    answering = sum((read_status(run) or {})["seconds"] for run in runs)
    at_once = 1 if engine == "basic" else 2
    found, first = answers(sweep), answers(folder / next(iter(ENGINES)))
    return Timed(
        engine=engine,
        at_once=at_once,
        jobs=len(runs),
        seconds=round(seconds, 1),
        answering=round(answering, 1),
        overhead=round((seconds * at_once - answering) / len(runs), 1),
        again=round(run_sweep(engine, sweep, overrides), 1),
        records=len(found),
        identical=found == first,
    )


def table(rows: Sequence[Timed], missing: Mapping[str, str], told: str) -> str:
    """Markdown."""
    lines = [
        "| engine | jobs at once | seconds | answering, all jobs | overhead a job | nothing missing | records |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        same = "identical" if row.identical else "DIFFER"
        values = f"{row.seconds} | {row.answering} | {row.overhead} | {row.again}"
        lines.append(f"| {row.engine} | {row.at_once} | {values} | {row.records}, {same} |")
    lines += [f"| {engine} | not run: {reason} |" for engine, reason in missing.items()]
    return "\n".join([*lines, "", told, ""])


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/launchers"))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    options = parser.parse_args()
    folder = options.folder.resolve()  # Ray's workers may start elsewhere
    settings = [*SETTINGS, "tracker=none", f"benchmark.root={folder / 'needle'}"]
    build_benchmark(composed(settings)).prepare()  # not to be timed
    rows, missing = [], {}
    for engine in options.engines:
        if reason := unavailable(engine):
            missing[engine] = reason
            continue
        rows.append(measure(engine, folder, [*SWEEP, *settings]))
        print(json.dumps(asdict(rows[-1])), flush=True)
    told = (
        f"`x2l -m hydra/launcher=ENGINE {' '.join([*SWEEP, *SETTINGS])}`: {rows[0].jobs} jobs of x2l_tiny; "
        f"{processor_name()}, {os.cpu_count()} cores, {now()[:10]}."
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    values = {"command": told, "engines": [asdict(row) for row in rows], "missing": missing}
    write_json(RESULTS / "points.json", values)
    (RESULTS / "table.md").write_text(table(rows, missing, told))
    print(table(rows, missing, told))


if __name__ == "__main__":
    main()
