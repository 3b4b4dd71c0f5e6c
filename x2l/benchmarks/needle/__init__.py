"""Needle: generated videos in which every answer and where it lies is known."""
