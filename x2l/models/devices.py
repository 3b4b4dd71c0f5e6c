"""Where a model that may be spread over several devices takes its inputs."""

from __future__ import annotations

from typing import Any

import torch


def input_device(hf: Any) -> torch.device:
    """The device that token ids and embeddings go to.

    Weights that accelerate keeps on the host or on disk are on `meta` until they are used: the hook that brings them
    knows where the module runs.
    """
    embedding = hf.get_input_embeddings()
    runs_on = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return torch.device(embedding.weight.device if runs_on is None else runs_on)
