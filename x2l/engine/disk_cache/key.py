"""What a pre-fill's KVs follow from, as one hash: the model, the very pixels, the prompt, levels, settings, the code.

Two pre-fills of one address have the same KVs. The reverse need not hold: whatever might matter counts.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from types import MappingProxyType, MemberDescriptorType
from typing import Any

import torch
from torch import Tensor, nn

from x2l.compressors.base import Compressor, Level
from x2l.engine.disk_cache.file_format import tensor_bytes
from x2l.engine.disk_cache.source_hash import sources_digest
from x2l.models.prompt import Prompt
from x2l.video import Frames

# Source files behind every pre-fill, with all that they import; those of compressors and codecs come with the levels.
_CODE = ("x2l.engine.prefill", "x2l.models.huggingface", "x2l.engine.disk_cache.file_format")
# Of frames, what does not reach the model: a video may be moved.
_PLACE = frozenset({"path", "reader"})
# Exactly these classes: what a subclass adds would not count.
_PLAIN = (type(None), bool, int, float, str, bytes)
_TEXT = (str, type(Path()), type(PurePath()))
_TENSORS = (Tensor, nn.Parameter)
_SEVERAL = (tuple, list, set, frozenset)
_MAPPINGS = (dict, OrderedDict, MappingProxyType)
_LONGEST_PATH = 1000


class Unaddressable(ValueError):
    """Something that a level consists of cannot be told from something else by what is in it."""


def address(
    fingerprint: str,
    code: str,
    prompt: Prompt,
    levels: Mapping[str, Level],
    settings: Mapping[str, Any],
    video_seed: int,
) -> str:
    """32 hex digits that name the KVs of one pre-fill.

    Args:
        fingerprint: of the model, see `models/fingerprint.py`.
        code: from `code_digest`.
        prompt: of the video, with its frames.
        levels: name -> compressor, ratio, codec and layers.
        settings: further plain values that shape KVs: context, positions.
        video_seed: counts only where a compressor may draw at random.

    Raises:
        Unaddressable: a level holds what cannot be told apart.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        seed = video_seed if draws(levels) else None
        for value in (fingerprint, code, prompt, dict(levels), dict(settings), seed):
            for part in _told(value):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
    except RecursionError as error:
        raise Unaddressable("a level holds something that holds itself") from error
    return digest.hexdigest()


def code_digest(levels: Mapping[str, Level]) -> str:
    """A hash of the source files behind a pre-fill, those of compressors and codecs outside x2l included.

    Raises:
        Unaddressable: a class has no source file, or holds what cannot be told apart.
    """
    try:
        kinds = {kind for level in levels.values() for kind in _classes(level)}
        modules = {base.__module__ for kind in kinds for base in kind.__mro__}
        return sources_digest({*_CODE, *modules} - sys.stdlib_module_names)
    except (ValueError, RecursionError) as error:
        raise Unaddressable(str(error)) from error


def draws(levels: Mapping[str, Level]) -> bool:
    """Whether a compressor may draw at random: x2l's own say so, any other one might."""
    kinds = {kind for level in levels.values() for kind in _classes(level)}
    return any(
        kind.draws or not kind.__module__.startswith("x2l.")
        for kind in kinds
        if issubclass(kind, Compressor)
    )


def _classes(value: Any) -> Iterator[type]:
    """Classes of an object and of all that it holds."""
    kind = type(value)
    if kind in (*_PLAIN, *_TEXT, *_TENSORS, torch.dtype, torch.device) or _without_value(value):
        return
    if kind in _MAPPINGS:
        parts = [*value, *value.values()]
    elif kind in _SEVERAL:
        parts = list(value)
    else:
        yield kind
        parts = list(_held(value).values())
    for part in parts:
        yield from _classes(part)


def _held(value: Any) -> dict[str, Any]:
    """Fields and attributes of an object that consists of nothing else.

    Raises:
        Unaddressable: it has slots that are no fields, or memory of its own, as `functools.partial` and whatever
            extends a built-in class: what is in there would not count.
    """
    kind = type(value)
    names = [f.name for f in fields(value)] if is_dataclass(value) else []
    slots = {
        name
        for base in kind.__mro__
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType)
    }
    pointers = len(slots) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    size = object.__basicsize__ + pointers * tuple.__itemsize__
    seen = slots <= set(names) and kind.__basicsize__ <= size and not kind.__itemsize__
    if not seen or not (names or hasattr(value, "__dict__")):
        raise Unaddressable(
            f"what is in a {kind.__module__}.{kind.__qualname__} cannot be told; use a dataclass "
            "or a class of its own that keeps all in attributes, without __slots__ and without a base that is built in "
            "or compiled"
        )
    return {name: getattr(value, name) for name in names} | _attributes(value)


def _attributes(value: Any) -> dict[str, Any]:
    return dict(getattr(value, "__dict__", {}))


def _contents(value: str | PurePath) -> bytes | None:
    """A hash of the file that a text names; None where it names none.

    Raises:
        Unaddressable: it names a folder.
    """
    text = os.path.expanduser(value)
    if isinstance(value, str) and not ("." in text or "/" in text):
        return None  # a word, whatever lies around
    if len(text) >= _LONGEST_PATH or "\0" in text:
        return None
    if os.path.isdir(text):  # may hold anything, of any size, and every video asks again
        raise Unaddressable(
            f"{text} is a folder, whose contents do not count; name the files that are read from it"
        )
    if not os.path.isfile(text):
        return None
    with open(text, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _without_value(value: Any) -> bool:
    return isinstance(value, type) or inspect.isroutine(value) or inspect.ismodule(value)


def _told(value: Any) -> Iterator[bytes]:
    """A value as bytes that no other value has; of any other type than is known here it is refused.

    Raises:
        Unaddressable: see `address`.
    """
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind in _TEXT:
        yield f"text {str(value)!r}".encode()
        if (contents := _contents(value)) is not None:
            yield contents  # a method that reads a file follows from what is in it
    elif kind in _PLAIN:
        whole = kind is float and value.is_integer()  # a ratio of 2.0 is one of 2
        yield f"{'int' if whole else kind.__name__} {int(value) if whole else value!r}".encode()
    elif kind in _TENSORS:
        if value.is_meta or value.layout != torch.strided:
            raise Unaddressable(
                f"a tensor of layout {value.layout} on {value.device} has no bytes to tell"
            )
        yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
        yield bytes_of(value)
        yield from _told_attributes(value)
    elif kind in _SEVERAL:
        items = sorted(value, key=repr) if kind in (set, frozenset) else value
        yield f"{name} of {len(value)}".encode()
        for item in items:
            yield from _told(item)
    elif kind in _MAPPINGS:
        yield f"mapping of {len(value)}".encode()
        for key, item in value.items():
            yield from _told(key)
            yield from _told(item)
        yield from _told_attributes(value)
    elif kind in (torch.dtype, torch.device):
        yield f"{name} {value}".encode()
    elif kind is Frames:
        yield from _told(
            {f.name: getattr(value, f.name) for f in fields(value) if f.name not in _PLACE}
        )
    elif _without_value(value):
        raise Unaddressable(
            f"{value!r}: a class, function or module as a setting has no value to tell by"
        )
    else:
        held = _held(value)
        yield f"object {name}".encode()
        yield from _told(held)


def _told_attributes(value: Any) -> Iterator[bytes]:
    """What somebody hung on a tensor or a mapping; mostly nothing."""
    if held := _attributes(value):
        yield b"with"
        yield from _told(held)


def bytes_of(tensor: Tensor) -> bytes:
    """A hash of a tensor's bytes."""
    return hashlib.blake2b(tensor_bytes(tensor)).digest()
