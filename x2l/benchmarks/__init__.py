"""Benchmarks: questions about videos, prompts, scores. May import video."""

from typing import TYPE_CHECKING

from x2l import lazy

if TYPE_CHECKING:
    from x2l.benchmarks.base import Benchmark, DatasetError, Sample, Score

__all__ = ["Benchmark", "DatasetError", "Sample", "Score"]
__getattr__ = lazy(__name__, dict.fromkeys(__all__, "x2l.benchmarks.base"))
