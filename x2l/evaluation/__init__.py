"""Evaluation: every question, every condition, one record each. May import everything but cli."""
