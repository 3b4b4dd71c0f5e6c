"""Compressors: one chunk's KVs in, exactly `keep` out; and summary tokens, whose KVs come from extra tokens."""

from typing import TYPE_CHECKING

from x2l import lazy

if TYPE_CHECKING:
    from x2l.compressors.base import Compressor, Level, Observation
    from x2l.compressors.grouping import Grouping
    from x2l.compressors.pruning_base import ScoredPruning

__all__ = ["Compressor", "Grouping", "Level", "Observation", "ScoredPruning"]
__getattr__ = lazy(
    __name__,
    {
        "Compressor": "x2l.compressors.base",
        "Grouping": "x2l.compressors.grouping",
        "Level": "x2l.compressors.base",
        "Observation": "x2l.compressors.base",
        "ScoredPruning": "x2l.compressors.pruning_base",
    },
)
