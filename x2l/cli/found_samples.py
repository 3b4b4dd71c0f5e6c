"""The questions of a sweep as its benchmarks have them, where their files are still there: options, spans, videos."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from x2l import UserError
from x2l.analysis.report.questions import SampleKey
from x2l.analysis.report.run_tables import run_infos
from x2l.benchmarks.base import Benchmark, Sample
from x2l.cli.compose import build
from x2l.runs.sweep_status import jobs

OURS = "x2l.benchmarks."  # a file of results may name these classes to be built, and no others


def found_samples(folder: Path) -> dict[SampleKey, Sample]:
    """Samples of every run's benchmark, as run.json names it; what is not there any more is passed over.

    Args:
        folder: a sweep, a run, or any folder of those.
    """
    infos = run_infos(jobs([folder])).values()
    settings = {json.dumps(info["config"]["benchmark"], sort_keys=True) for info in infos}
    samples: dict[SampleKey, Sample] = {}
    for text in sorted(settings):
        benchmark_settings = json.loads(text)
        if not all(target.startswith(OURS) for target in _targets(benchmark_settings)):
            continue
        try:
            benchmark = build(OmegaConf.create(benchmark_settings), "benchmark")
            assert isinstance(benchmark, Benchmark)
            samples |= {(benchmark.name, sample.id): sample for sample in benchmark.samples()}
        except (OSError, ValueError, UserError):
            continue
    return samples


def _targets(settings: Mapping[str, Any]) -> Iterator[str]:
    """Every class that some settings name; the first one always."""
    yield str(settings.get("_target_"))
    for value in settings.values():
        if isinstance(value, dict) and "_target_" in value:
            yield from _targets(value)
