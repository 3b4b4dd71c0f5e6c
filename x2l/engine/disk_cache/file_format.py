"""KV stores as files: every form in which KVs wait, bit for bit, in the safetensors format, with a checksum.

A file holds a whole pre-fill: prefix, every level's KVs under the key `level/chunk/layer/...`, step embeddings, and in
the metadata how they belong together and whatever facts the caller adds. The last tensor, `checksum`, is the blake2b
of everything before it, so that a flipped bit anywhere is found.

Written and read here rather than by the safetensors package, which can read the files: tensors are written one by one,
so that no second copy of the KVs is made, and read into one buffer (pinned where a GPU copies from it), never mapped:
a mapped file that is cut or vanishes on a network drive kills the process. The checksum takes 0.7 s a GB on one core,
more than half of loading a file that is still in memory. Reading for a GPU has not been run on one yet.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from x2l.compressors.quantisation import EncodedLayer, Packed
from x2l.compressors.stored_forms import Interleaved, Ragged
from x2l.engine.attended_keys import AttendedKeys, ChunkKeys
from x2l.engine.disk_cache.folder import DamagedFile
from x2l.engine.kv_store import KVStore
from x2l.kv import KV, Compact, LayerKV, PlainLayer, StoredKV
from x2l.models.prompt import Prompt

_CHECK_BYTES = 32
_FORMS = {
    form.__name__: form
    for form in (
        *(LayerKV, PlainLayer, EncodedLayer, Packed, Compact, Interleaved, Ragged),
        *(AttendedKeys, ChunkKeys),
    )
}
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class Unstorable(ValueError):
    """KVs in a form that no file has a word for."""


@dataclass(frozen=True)
class Plan:
    """A store ready to be written.

    Attributes:
        header: the file's first bytes.
        tensors: those that follow, in this order.
        nbytes: of the whole file.
    """

    header: bytes
    tensors: tuple[Tensor, ...]
    nbytes: int


def plan(store: KVStore, facts: Mapping[str, Any]) -> Plan:
    """Lays a store out as a file; copies nothing.

    Args:
        store: any.
        facts: what JSON can hold.

    Raises:
        Unstorable: a level is in a form that is not of x2l.
    """
    tensors: dict[str, Tensor] = {"step_embeds": store.step_embeds}
    forms: dict[str, int] = {}  # most layers have the same form, which is written once

    def form_of(name: str, value: Any) -> int:
        return forms.setdefault(json.dumps(_apart(name, value, tensors)), len(forms))

    prefix = [form_of(f"prefix/{i}", layer) for i, layer in enumerate(store.prefix.layers)]
    levels = {
        level: [
            [form_of(f"{level}/{chunk}/{i}", layer) for i, layer in enumerate(kv.layers)]
            for chunk, kv in enumerate(kvs)
        ]
        for level, kvs in store.levels.items()
    }
    indexes = [
        [form_of(f"indexes/{i}/{j}", part) for j, part in enumerate(pair)]
        for i, pair in enumerate(store.indexes.items())
    ]
    # A level of ratio 1 holds the very tensors of another: they are written once.
    first: dict[tuple[Any, ...], str] = {}
    same = {}
    for name, tensor in tensors.items():
        what = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and first.setdefault(what, name) != name:
            same[name] = first[what]
    # By size of a number, so that each begins at a multiple of it.
    names = sorted(tensors.keys() - same.keys(), key=lambda n: -tensors[n].dtype.itemsize)
    layout = {
        "prefix": prefix,
        "levels": levels,
        "indexes": indexes,
        "forms": [json.loads(form) for form in forms],
        "same": same,
        "positions": store.positions,
        "step_chunk": store.step_chunk,
        "facts": facts,
    }
    entries: dict[str, Any] = {"__metadata__": {"x2l": json.dumps(layout)}}
    at = 0
    for name in names:
        tensor = tensors[name]
        kind, shape, end = _NAMES[tensor.dtype], list(tensor.shape), at + tensor.nbytes
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
        at = end
    end = at + _CHECK_BYTES
    entries["checksum"] = {"dtype": "U8", "shape": [_CHECK_BYTES], "data_offsets": [at, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Plan(header, tuple(tensors[name] for name in names), len(header) + end)


class Writable(Protocol):
    """What takes bytes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Appends."""


def write(planned: Plan, file: Writable) -> None:
    """Writes a store."""
    digest = hashlib.blake2b(digest_size=_CHECK_BYTES)
    digest.update(planned.header)
    file.write(planned.header)
    for tensor in planned.tensors:
        data = tensor_bytes(tensor)
        digest.update(data)
        file.write(data)
    file.write(digest.digest())


def read(
    path: Path, prompt: Prompt, devices: Sequence[torch.device]
) -> tuple[KVStore, dict[str, Any]]:
    """Reads a store and the facts written with it.

    Args:
        path: the file.
        prompt: what was pre-filled.
        devices: of each layer of the model; the coarsest level and the prefix go there, all others stay on the
            host, in pinned memory where any layer is on a GPU.

    Raises:
        DamagedFile: it is not what was written.
        OSError: it cannot be read; FileNotFoundError where there is none.
    """
    pinned = any(device.type == "cuda" for device in devices)
    buffer = _verified(path, pinned)
    length = int.from_bytes(bytes(buffer[:8].tolist()), "little")
    header = json.loads(buffer[8 : 8 + length].numpy().tobytes())
    layout = json.loads(header.pop("__metadata__")["x2l"])
    data, tensors = buffer[8 + length :], {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        tensors[name] = data[start:stop].view(_DTYPES[entry["dtype"]]).view(entry["shape"])
    tensors |= {name: tensors[other] for name, other in layout["same"].items()}
    forms = layout["forms"]

    def layers(name: str, of: Sequence[int]) -> tuple[Any, ...]:
        return tuple(_whole(f"{name}/{i}", forms[form], tensors) for i, form in enumerate(of))

    def placed(layers: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(layer.to(device) for layer, device in zip(layers, devices, strict=True))

    # What is small is copied, so as not to keep the buffer; a copy is aligned like what a pre-fill makes, too.
    prefix = [layer.map(Tensor.clone) for layer in layers("prefix", layout["prefix"])]
    levels = {
        level: tuple(layers(f"{level}/{chunk}", of) for chunk, of in enumerate(chunks))
        for level, chunks in layout["levels"].items()
    }
    coarsest = tuple(levels)[-1]
    levels[coarsest] = tuple(placed(chunk) for chunk in levels[coarsest])
    indexes = {
        index: replace(
            kept,
            keys=tuple(
                k.to(devices[i]).clone() for i, k in zip(kept.layers, kept.keys, strict=True)
            ),
        )
        for index, kept in (
            layers(f"indexes/{i}", pair) for i, pair in enumerate(layout["indexes"])
        )
    }
    store = KVStore(
        prompt=replace(prompt, visual={}),
        prefix=KV(placed(prefix)),
        levels={level: tuple(map(StoredKV, chunks)) for level, chunks in levels.items()},
        positions=layout["positions"],
        step_embeds=tensors["step_embeds"].clone(),
        step_chunk=tuple(layout["step_chunk"]),
        indexes=indexes,
    )
    return store, layout["facts"]


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in order, on the host."""
    if not tensor.numel():
        return memoryview(b"")  # whose strides torch would not read as bytes
    # Of one number torch may call any stride contiguous, and then not read it as bytes.
    flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def _verified(path: Path, pinned: bool) -> Tensor:
    """The bytes of a file that are what was written."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        view = buffer.numpy().data
        if size <= _CHECK_BYTES or file.readinto(view) != size:
            raise DamagedFile(f"{path}: is cut short")
    body, check = view[:-_CHECK_BYTES], view[-_CHECK_BYTES:]
    if hashlib.blake2b(body, digest_size=_CHECK_BYTES).digest() != check:
        raise DamagedFile(f"{path}: its checksum does not match its {size} bytes")
    return buffer


def _apart(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """What JSON keeps of a form: its class and plain fields; null where a tensor goes, which is put into `tensors`."""
    if isinstance(value, Tensor):
        if value.dtype not in _NAMES:
            raise Unstorable(f"{name}: {value.dtype} has no place in a file")
        tensors[name] = value
        return None
    if isinstance(value, torch.dtype):
        return {"dtype": _NAMES[value]}
    if isinstance(value, tuple):
        return [_apart(f"{name}/{i}", part, tensors) for i, part in enumerate(value)]
    if type(value) in (int, float):
        return value
    if _FORMS.get(type(value).__name__) is not type(value):
        raise Unstorable(
            f"{name}: KVs of class {type(value).__qualname__} cannot be kept in a file; only x2l's own forms "
            f"({', '.join(_FORMS)}) can"
        )
    parts = {
        f.name: _apart(f"{name}/{f.name}", getattr(value, f.name), tensors) for f in fields(value)
    }
    return {"form": type(value).__name__, "of": parts}


def _whole(name: str, form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `_apart`."""
    if form is None:
        return tensors[name]
    if isinstance(form, list):
        return tuple(_whole(f"{name}/{i}", part, tensors) for i, part in enumerate(form))
    if not isinstance(form, dict):
        return form
    if "dtype" in form:
        return _DTYPES[form["dtype"]]
    parts = {part: _whole(f"{name}/{part}", of, tensors) for part, of in form["of"].items()}
    return _FORMS[form["form"]](**parts)
