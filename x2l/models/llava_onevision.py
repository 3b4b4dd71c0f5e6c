"""LLaVA-OneVision: one learned `image_newline` ends the whole video; the stock forward adds it on every call."""

from x2l.models.family import Family

FAMILY = Family(newline=1)
