"""Selectors: how relevant each chunk is to a question."""
