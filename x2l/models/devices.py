"""Where a model that may be spread over several devices takes its inputs, and runs its layers."""

from __future__ import annotations

from typing import Any

import torch


def input_device(hf: Any) -> torch.device:
    """The device that token ids and embeddings go to.

    Weights that accelerate keeps on the host or on disk are on `meta` until they are used: the hook that brings them
    knows where the module runs.
    """
    return _runs_on(hf.get_input_embeddings())


def layer_devices(hf: Any) -> tuple[torch.device, ...]:
    """The device that each layer of the decoder runs on, which is where its KVs come to lie."""
    return tuple(_runs_on(layer) for layer in hf.get_decoder().layers)


def _runs_on(module: Any) -> torch.device:
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    runs_on = next((device for device in devices if device is not None), None)
    return torch.device(next(module.parameters()).device if runs_on is None else runs_on)
