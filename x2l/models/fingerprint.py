"""What tells two models apart that would compute different KVs: weights, configuration, processor, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from typing import Any

import torch
from torch import Tensor, nn

_PACKAGES = ("torch", "torchvision", "transformers")
_BLOCK = 1 << 22  # numbers summed at a time, so that memory does not grow with a weight


class UntoldWeights(ValueError):
    """Weights that cannot be read where they lie, and that nothing else tells from others."""


def fingerprint(hf: Any, processor: Any, more: object = None) -> str:
    """A hash of all that a stock model brings to a pre-fill, video and prompt aside.

    Weights are read where they lie, as the model has them: whoever changed them after loading is told apart too.
    Weights that accelerate keeps off the devices (on `meta`) count by name and size only, and by the configuration's
    commit on the Hub.

    Args:
        hf: a `...ForConditionalGeneration`.
        processor: its processor.
        more: what the adapter adds, as text.

    Raises:
        UntoldWeights: weights on `meta`, and no commit.
    """
    commit = getattr(hf.config, "_commit_hash", None)
    configs = [hf.config, *(getattr(hf.config, name) for name in hf.config.sub_configs)]
    identity = {
        "class": f"{type(hf).__module__}.{type(hf).__qualname__}",
        "weights": weights_digest(hf, commit),
        "config": _without_place(hf.config.to_dict()),
        "commit": commit,
        "attention": [config._attn_implementation for config in configs],
        "processor": type(processor).__qualname__,
        "video": _without_place(processor.video_processor.to_dict()),
        "arithmetic": _arithmetic({tensor.device for tensor in hf.parameters()}),
        "versions": [importlib.metadata.version(name) for name in _PACKAGES],
        "more": repr(more),
    }
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def weights_digest(module: nn.Module, commit: str | None = None) -> str:
    """A hash of all parameters and buffers: of their bytes on the host, of sums over their bits on a GPU.

    On the host 1.4 GB a second; on a GPU nothing is copied.

    Args:
        module: its weights on `meta` count by name and size only.
        commit: on the Hub, which tells what these are.

    Raises:
        UntoldWeights: there are weights on `meta`, and no commit.
    """
    weights = sorted(module.state_dict().items())
    hidden = [name for name, tensor in weights if tensor.is_meta and tensor.numel()]
    if hidden and commit is None:
        raise UntoldWeights(
            f"{len(hidden)} weights (the first is {hidden[0]}) are kept off the devices, where they cannot be told "
            "from others, and the model is of no commit of the Hub; load it from the Hub, or on devices that hold all"
        )
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in weights:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.is_meta or not tensor.numel():
            continue
        flat = tensor.detach().contiguous().as_strided((tensor.numel(),), (1,))
        if tensor.device.type == "cpu":
            digest.update(memoryview(flat.view(torch.uint8).numpy()))
        else:
            digest.update(repr(bit_sums(flat)).encode())
    return digest.hexdigest()


def bit_sums(flat: Tensor) -> tuple[int, int]:
    """Sum of the numbers of `(n,)` read as integers, and the same weighted by an odd number for each place.

    Both modulo 2^64, computed where the tensor lies. Other weights, or the same ones in another order, have other
    sums but for a chance of 2^-64 or so; whoever means to deceive can make equal ones.
    """
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    plain = weighted = 0
    place = 2 * torch.arange(min(_BLOCK, len(flat)), device=flat.device) + 1
    for index, block in enumerate(flat.view(kinds[flat.element_size()]).split(_BLOCK)):
        whole = block.long()
        plain += int(whole.sum())
        weighted += (2 * index + 1) * int((whole * place[: len(whole)]).sum())
    return plain % 2**64, weighted % 2**64


def _arithmetic(devices: set[torch.device]) -> list[str]:
    """What the same sums may differ by in their last bits: kinds of device, and what torch may do there."""
    kinds = {
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        if device.type == "cpu"
        else device.type
        for device in devices
        if device.type != "meta"
    }
    return [*sorted(kinds), torch.get_float32_matmul_precision()]


def _without_place(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folder that it was read from: a checkpoint may be moved."""
    return {
        key: _without_place(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key != "_name_or_path"
    }
