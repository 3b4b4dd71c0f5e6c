"""SmolVLM2: the expanded video ends in an empty line, which the tokenizer may join with the question."""

from transformers.models.smolvlm.processing_smolvlm import DEFAULT_MEDIA_OUTTRO

from x2l.models.families import Family

FAMILY = Family(outro=DEFAULT_MEDIA_OUTTRO)
