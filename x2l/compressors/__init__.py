"""Compressors: one chunk's KVs in, exactly `keep` out. May import models and kv."""

from x2l.compressors.base import Compressor, Level, Observation
from x2l.compressors.grouping import Grouping
from x2l.compressors.pruning_base import ScoredPruning

__all__ = ["Compressor", "Grouping", "Level", "Observation", "ScoredPruning"]
