"""Copies of KVs to host memory that do not hold up the compute device.

On CUDA a level that waits on the host is copied into pinned memory by a stream of its own, while the next chunk is
embedded and pre-filled; re-loading it from there does not wait either (`StoredLayer.to`). On any other device copies
are plain. The CUDA path was written by the book and has not been run on a GPU yet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from x2l.kv import KV, StoredKV, StoredLayer

_streams: dict[torch.device, torch.cuda.Stream] = {}  # one a device, for the life of the process


def to_host(kv: KV | StoredKV) -> StoredKV:
    """The same KVs in host memory, in the form they are in, each layer copied from the device it lies on.

    Their values must not be read on the host before `copies_done`; copying them back to the device is safe at once
    only after it, too.
    """
    return StoredKV(tuple(_layer_to_host(layer) for layer in kv.layers))


def copies_done() -> None:
    """Waits until every copy that `to_host` started has arrived."""
    for stream in _streams.values():
        stream.synchronize()


def _layer_to_host(layer: StoredLayer) -> StoredLayer:
    device = layer.device
    if not _copies_by_stream(device):
        return layer.to("cpu")
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    side = _streams[device]
    side.wait_stream(torch.cuda.current_stream(device))  # the KVs must have been computed
    with torch.cuda.stream(side):
        return layer.map(lambda tensor: _copied(tensor, side))


def _copied(tensor: Tensor, side: torch.cuda.Stream) -> Tensor:
    host = _pinned(tensor).copy_(tensor, non_blocking=True)
    tensor.record_stream(side)  # its memory serves nobody else before the copy is done
    return host


def _copies_by_stream(device: torch.device) -> bool:
    return device.type == "cuda"


def _pinned(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
