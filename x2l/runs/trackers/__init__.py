"""Trackers: what a run tells W&B or TensorBoard while it goes on."""
