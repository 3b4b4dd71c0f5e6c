"""LLaVA-OneVision: one learned `image_newline` ends the whole video; the stock forward adds it on every call."""

from x2l.models.families import Family

FAMILY = Family(newline=1)
