"""Benchmarks: questions about videos, prompts, scores. May import video."""
