"""Disk cache: pre-fills kept for other runs, found again by all that they depend on."""
