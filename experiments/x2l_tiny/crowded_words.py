"""x2l_tiny's first version, ready to be trained further."""

from pathlib import Path

import torch

from experiments.x2l_tiny import folder as tiny_folder  # noqa: F401  (first: it makes transformers importable without CUDA)

# isort: split
from transformers import AutoModelForImageTextToText, AutoProcessor

from experiments.x2l_tiny.scenes import Words


def load(folder: str | Path):
    """Model, processor and words of a checkpoint folder.

    Returns:
        The float32 model with the attribute rows of its embedding frozen, its processor, its `Words`.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    words = Words(processor.tokenizer)
    weight = model.get_input_embeddings().weight
    keep = torch.ones(len(weight), 1)
    keep[torch.tensor([words.video, *words.colours, *words.shapes])] = 0
    weight.register_hook(lambda grad: grad * keep)
    return model, processor, words
