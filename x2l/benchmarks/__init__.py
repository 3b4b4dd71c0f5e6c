"""Benchmarks: questions about videos, how each is put to a model, and how its answer is scored."""
