"""Runs: the files in a run's folder, written and read; trackers. May import what is below evaluation and analysis."""
