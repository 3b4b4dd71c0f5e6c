"""`x2l-plan [-m] SETTINGS...`: what a run or a sweep will take, before it is started. Runs nothing, reads no weights.

Takes what `x2l` takes. Every job is composed and checked, so that a value that cannot work is found before the first
begins; of each are told pre-fills, answers, FLOPs by stage, memory and disk. Answers count as the longest that
max_new_tokens allows; what selectors compute is not in it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from tabulate import tabulate

from x2l.analysis import units
from x2l.benchmarks.base import Benchmark
from x2l.benchmarks.needle.benchmark import Needle
from x2l.cli.compose import (
    build_benchmark,
    composed,
    config_dir,
    engine,
    hydra_of_its_own,
    one_line,
    searched,
)
from x2l.cli.hydra_callbacks import sweep_jobs
from x2l.cli.output import command, fail, show
from x2l.evaluation.settings import ConfigError, config_errors

# torch and transformers wait until every job is known to be right.
if TYPE_CHECKING:
    from x2l.evaluation.plan import Film, VideoCost
    from x2l.models.huggingface import HFVideoModel

OPENED = 3  # videos of a set that are looked at, evenly spread
USUAL = (600.0, 1280, 720)  # seconds, width and height of a video that is not there
QUESTION = "What happens while the man in the blue coat waits at the door of the house? " * 4


@dataclass(frozen=True)
class JobPlan:
    """One job.

    Attributes:
        overrides: of the job alone.
        prefills, questions, answers: how many.
        costs: of some of its videos.
        device: where it runs.
        kept: whether pre-fills are kept on disk.
    """

    overrides: tuple[str, ...]
    prefills: int
    questions: int
    answers: int
    costs: tuple[VideoCost, ...]
    device: str
    kept: bool

    def flops(self) -> Counter[str]:
        """By stage."""
        total: Counter[str] = Counter()
        for cost in self.costs:
            for stage, flops in cost.flops.items():
                times = self.questions if stage == "decode" else self.prefills
                total[stage] += round(flops * times / len(self.costs))
        return total


def jobs_of(overrides: Sequence[str], multirun: bool) -> list[tuple[str, ...]]:
    """The overrides of each job of a command line of `x2l`.

    Raises:
        ConfigError: it cannot be read, or it sweeps without `-m`.
    """
    try:
        with hydra_of_its_own():
            loader = GlobalHydra.instance().config_loader()
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
            swept = [str(o.input_line) for o in parsed if o.is_sweep_override()]
            fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
            config = compose("config", [*searched(), *fixed], return_hydra_config=True)
            if not multirun and str(config.hydra.mode) != "RunMode.MULTIRUN":
                if swept:
                    raise ConfigError(f"{swept[0]}: is several values; add -m for a sweep of them")
                return [tuple(overrides)]
            task = [o for o in overrides if not o.lstrip("+~").startswith(("hydra.", "hydra/"))]
            with open_dict(config):
                config.hydra.overrides.task = task
            jobs = [tuple(job) for job in sweep_jobs(config)]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error, overrides)) from error
    if not jobs:
        raise ConfigError("hydra/sweeper=: its jobs are not known beforehand; plan one of them")
    return jobs


def plan_job(
    overrides: tuple[str, ...], models: dict[str, HFVideoModel], usual: Sequence[float | None]
) -> JobPlan:
    """What one job takes.

    Args:
        overrides: of the job.
        models: outlines by settings; filled here.
        usual: seconds, width and height of videos that are not there, if the user says.

    Raises:
        ConfigError: a value that cannot work.
    """
    made, config = engine(overrides), composed(overrides)
    benchmark = build_benchmark(config)
    from x2l.evaluation.conditions import cells, check_samples
    from x2l.evaluation.plan import video_cost
    from x2l.evaluation.runner import limited
    from x2l.evaluation.settings import check_temporal_patch

    settings = made.settings
    if settings.fewer_frames:
        raise ConfigError(f"control={settings.control}: cannot be planned; leave it out here")
    if isinstance(benchmark, Needle):
        settings = replace(settings, seconds=benchmark.seconds)
    with config_errors():
        settings.check_chunks()
        answering = cells(made.selectors, settings, benchmark.name, benchmark.protocol)
        text, videos, questions = QUESTION, 0, 0
        try:
            samples = limited(benchmark.samples(), benchmark, settings.limit)
        except FileNotFoundError:
            assert isinstance(benchmark, Needle)  # whose files are not made yet
            of_video = len(benchmark.tasks) * benchmark.questions * (4 if benchmark.circular else 1)
            questions = min(benchmark.videos * of_video, settings.limit or sys.maxsize)
            videos = -(-questions // of_video)
        else:
            check_samples(samples, answering, settings)
            questions, videos = len(samples), len({sample.video_id for sample in samples})
            text = benchmark.prompt(samples[0])
        model = _outlined(config.model, models)
        check_temporal_patch(settings.chunk_frames, model.temporal_patch)
    films = _films(benchmark, usual)
    with config_errors():
        costs = tuple(
            video_cost(model, film, text, made.levels, answering, settings) for film in films
        )
    return JobPlan(
        overrides,
        videos,
        questions,
        questions * len(answering),
        costs,
        settings.device or "device_map",
        settings.prefill_cache is not None,
    )


def _outlined(node: DictConfig, models: dict[str, HFVideoModel]) -> HFVideoModel:
    from x2l.models.loading import outline

    if node["_target_"] != "x2l.models.loading.load":
        raise ConfigError(f"model._target_={node['_target_']}: only checkpoints can be planned")
    settings = OmegaConf.to_container(node, resolve=True)
    assert isinstance(settings, dict)
    values = {name: settings[name] for name in signature(outline).parameters if name in settings}
    key = repr(values)
    if key not in models:
        try:
            models[key] = outline(**values)
        except OSError as error:
            raise ConfigError(str(error)) from error
    return models[key]


def _films(benchmark: Benchmark, usual: Sequence[float | None]) -> list[Film]:
    """Length and size of some of the videos."""
    from x2l.evaluation.plan import Film
    from x2l.video import VideoError, open_frames

    if isinstance(benchmark, Needle):
        return [Film(float(benchmark.seconds), benchmark.height, benchmark.width)]
    there = sorted({s.video for s in benchmark.samples() if Path(s.video).is_file()})
    films = []
    for path in there[:: max(1, len(there) // OPENED)][:OPENED]:
        try:
            frames = open_frames(path, 1, None)
        except VideoError:
            continue
        _, height, width, _ = frames.shape
        films.append(Film(usual[0] or frames.duration, height, width))
    seconds, columns, lines = (given or value for given, value in zip(usual, USUAL, strict=True))
    return films or [Film(seconds, int(lines), int(columns))]


def measured_flops(folder: Path) -> float:
    """FLOPs a second that the runs under a folder reached, everything but reading included.

    Raises:
        ConfigError: there are no answers.
    """
    from x2l.analysis.collect import records_under
    from x2l.analysis.points import points

    with config_errors():
        rows = points(records_under([folder]))
    seconds = sum(p.seconds_total * p.questions for p in rows)
    return sum(p.flops_total * p.questions for p in rows) / seconds


def report(jobs: Sequence[JobPlan], rate: float | None, room: float | None) -> tuple[str, ...]:
    """What is printed.

    Args:
        jobs: all of them.
        rate: FLOPs a second; None = unknown.
        room: bytes of the device; None = unknown.
    """
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    rows = []
    for job in jobs:
        worst = max(job.costs, key=lambda cost: cost.device_bytes)
        flops = sum(job.flops().values())
        rows.append(
            [
                " ".join(o for o in job.overrides if o not in shared) or "-",
                f"{job.prefills:,}",
                f"{job.answers:,}",
                f"{worst.frames:,}",
                f"{worst.tokens:,}",
                units.prefixed(flops, ""),
                f"{worst.resident_bytes / 1e9:.3g}",
                f"{worst.device_bytes / 1e9:.3g}",
                "-" if rate is None else f"{flops / rate / 3600:.3g}",
            ]
        )
    heads = ["job", "pre-fills", "answers", "frames", "tokens", "FLOPs", "KV GB", "GB", "hours"]
    table = tabulate(rows, heads, "plain", disable_numparse=True, colalign=("left", *["right"] * 8))
    total: Counter[str] = Counter()
    for job in jobs:
        total.update(job.flops())
    stored = sum(
        job.prefills * max(cost.stored_bytes for cost in job.costs) for job in jobs if job.kept
    )
    from x2l.evaluation.plan import RECORD_BYTES

    most = max(cost.device_bytes for job in jobs for cost in job.costs)
    answers = sum(job.answers for job in jobs)
    lines = [
        table,
        "",
        f"{len(jobs)} jobs, {sum(job.prefills for job in jobs):,} pre-fills, {answers:,} answers",
        "compute   "
        + ", ".join(f"{stage} {units.prefixed(flops, 'FLOPs')}" for stage, flops in total.items())
        + "; vision is an estimate, selectors are not counted",
        f"memory    at least {most / 1e9:.3g} GB at a time: weights and KVs; activations come on top"
        + ("" if room is None else f"; there are {room / 1e9:.3g} GB"),
        f"disk      records {answers * RECORD_BYTES / 1e6:.3g} MB"
        + (f", kept pre-fills up to {stored / 1e9:.3g} GB" if stored else ""),
    ]
    if rate is None:
        lines.append(
            "time      not known: --tflops N, or --like FOLDER of a run on the same device"
        )
    else:
        hours = sum(total.values()) / rate / 3600
        lines.append(f"time      {hours:.3g} h at {rate / 1e12:.3g} TFLOP/s")
    return tuple(lines)


def warnings(jobs: Sequence[JobPlan], room: float | None) -> list[str]:
    """Why jobs cannot work, a line each reason, with how many have it."""
    reasons: Counter[str] = Counter()
    for job in jobs:
        reasons.update({line for cost in job.costs for line in cost.refusals})
        most = max(cost.device_bytes for cost in job.costs)
        if room is not None and most > room:
            reasons[
                f"memory: {' '.join(job.overrides)}: weights and KVs take {most / 1e9:.3g} GB or more of "
                f"{room / 1e9:.3g}; use fewer frames, a higher ratio, model.dtype=bfloat16 or a smaller model"
            ] += 1
    return [f"{line} ({count} of {len(jobs)} jobs)" for line, count in reasons.items()]


def workers(settings: Sequence[str], count: int) -> tuple[str, str]:
    """The commands by which so many workers share the videos of every job, for SLURM and for Ray.

    Args:
        settings: as on the command line of `x2l`.
        count: of workers, two or more.

    Raises:
        ConfigError: the benchmark has no shards, or one is chosen.
    """
    fixed = [word for word in settings if word.startswith(("benchmark=", "experiment="))]
    for benchmark in jobs_of(fixed, multirun=True):
        if "shard" not in composed(benchmark).benchmark:
            name = next((word for word in benchmark if word.startswith("benchmark=")), "benchmark")
            raise ConfigError(f"--workers {count}: {name} has no setting shard; leave it out")
    if any(word.lstrip("+").startswith("benchmark.shard=") for word in settings):
        raise ConfigError(f"--workers {count}: writes benchmark.shard itself; leave that out")
    shards = ",".join(f"{number}/{count}" for number in range(1, count + 1))
    common = ["x2l", "-m", *settings, f"benchmark.shard={shards}"]
    slurm = ["hydra/launcher=submitit_slurm", f"hydra.launcher.array_parallelism={count}"]
    ray = ["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=1"]
    return shlex.join([*common, *slurm]), shlex.join([*common, *ray])


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 2 for a value that cannot work, 1 where a job cannot fit."""
    parser = argparse.ArgumentParser(prog="x2l-plan", description=__doc__)
    parser.add_argument("settings", nargs="*", help="as for x2l, e.g. compressor=tome,key_norm")
    parser.add_argument("-m", "--multirun", action="store_true", help="a sweep, as for x2l")
    parser.add_argument("--config-dir", metavar="DIR", help="yaml files of your own methods")
    parser.add_argument("--tflops", type=float, help="that the device reaches, for hours")
    parser.add_argument("--like", type=Path, metavar="FOLDER", help="measured: of such runs")
    parser.add_argument("--memory-gb", type=float, help="of the device; default: of this one")
    parser.add_argument("--video-seconds", type=float, help="length of videos; default: theirs")
    parser.add_argument("--size", metavar="WxH", help="of videos that are not there: 1280x720")
    parser.add_argument("--workers", type=int, metavar="N", help="commands by which N share it")
    options = parser.parse_intermixed_args(arguments)
    if options.workers is not None and options.workers < 2:
        parser.error(f"--workers {options.workers}: must be at least 2")
    for name in ("tflops", "memory_gb", "video_seconds"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{name.replace('_', '-')} {value:g}: must be above 0")
    size = options.size.split("x") if options.size else ()
    if options.size and (len(size) != 2 or not all(n.isdigit() and int(n) for n in size)):
        parser.error(f"--size {options.size}: must be WxH in pixels, e.g. 1280x720")
    usual = (options.video_seconds, *([float(n) for n in size] or (None, None)))
    with command(), config_dir(options.config_dir):
        shared = None if options.workers is None else workers(options.settings, options.workers)
        rate = None if options.tflops is None else options.tflops * 1e12
        if options.like is not None:
            rate = measured_flops(options.like)
        models: dict[str, HFVideoModel] = {}
        jobs, wrong = [], dict[str, int]()
        for overrides in jobs_of(options.settings, options.multirun):
            try:
                jobs.append(plan_job(overrides, models, usual))
            except ConfigError as error:
                wrong[str(error)] = wrong.get(str(error), 0) + 1
        if wrong:
            fail("; ".join(f"{line} ({count} jobs)" for line, count in wrong.items()))
        room = _room(jobs[0].device) if options.memory_gb is None else options.memory_gb * 1e9
        show(*report(jobs, rate, room))
        multirun = ["-m"] if options.multirun else []
        show(f"command   {shlex.join(['x2l', *multirun, *options.settings])}")
        if shared is not None:
            show(f"SLURM     {shared[0]}\nRay       {shared[1]}")
        lines = warnings(jobs, room)
        for line in lines:
            print(f"warning: {line}", file=sys.stderr)
    sys.exit(1 if lines else 0)


def _room(device: str) -> float | None:
    """Free memory of a device that this machine has; None where it has none such."""
    import torch

    from x2l.models.out_of_memory import available_bytes

    if device == "cpu" or (device.startswith("cuda") and torch.cuda.is_available()):
        return available_bytes(torch.device(device))
    return None


if __name__ == "__main__":
    main()
