"""What a pre-fill's KVs follow from, as one hash: the model, the very pixels, the prompt, levels, settings, the code.

Two pre-fills of one address have the same KVs. The reverse need not hold: whatever might matter counts. Methods are
told apart by their fields, so they must be frozen dataclasses of plain values; any other method gets no cache.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from x2l.compressors.base import Level, Method
from x2l.engine.disk_cache.file_format import tensor_bytes
from x2l.engine.disk_cache.source_hash import engine_digest, users_digest
from x2l.frames import SampledFrames
from x2l.models.prompt import Prompt

# Of frames, what does not reach the model: a video may be moved.
_PLACE = frozenset({"path", "reader"})
# Exactly these classes: what a subclass adds would not count.
_PLAIN = (type(None), bool, int, float, bytes, torch.dtype)
_TEXT = (str, type(Path()), type(PurePath()))
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
    pixels: str,
) -> str:
    """32 hex digits that name the KVs of one pre-fill.

    Args:
        fingerprint: of the model, see `models/fingerprint.py`.
        code: from `code_digest`.
        prompt: of the video, with its frames.
        levels: name -> compressor, ratio, codec and layers, finest first.
        settings: further values that shape KVs: context, positions, tokens of probe texts.
        video_seed: counts only where a compressor may draw at random.
        pixels: from `pixels_digest`.

    Raises:
        Unaddressable: a level holds what cannot be told apart.
    """
    digest = hashlib.blake2b(digest_size=16)
    seed = video_seed if draws(levels) else None
    methods = [(name, described(level)) for name, level in levels.items()]
    for text in (fingerprint, code, pixels, repr(methods), repr(seed)):
        digest.update(f"{text}\n".encode())
    for part in _parts((prompt, dict(settings))):
        digest.update(part)
    return digest.hexdigest()


def pixels_digest(blocks: Iterable[Tensor]) -> str:
    """A hash of all pixels of a video, given block by block in time order; the same however they are cut."""
    digest = hashlib.blake2b(digest_size=16)
    for pixels in blocks:
        digest.update(tensor_bytes(pixels))
    return digest.hexdigest()


def code_digest(levels: Mapping[str, Level]) -> str:
    """A hash of the source behind a pre-fill, that of compressors and codecs outside x2l included.

    Raises:
        Unaddressable: a class has no source file, or holds what cannot be told apart.
    """
    outside = users_bases(levels)
    try:
        return engine_digest() + (users_digest(outside) if outside else "")
    except ValueError as error:
        raise Unaddressable(str(error)) from error


def users_bases(levels: Mapping[str, Level]) -> set[str]:
    """Modules outside x2l and Python that classes of the levels, or their bases, are from."""
    modules = {base.__module__ for kind in _classes(levels) for base in kind.__mro__}
    return {
        name for name in modules if name.partition(".")[0] not in {"x2l", *sys.stdlib_module_names}
    }


def draws(levels: Mapping[str, Level]) -> bool:
    """Whether a compressor may draw at random: x2l's own say so, any other one might."""
    return any(
        kind.draws or not kind.__module__.startswith("x2l.")
        for kind in _classes(levels)
        if issubclass(kind, Method)
    )


def described(value: Any) -> str:
    """A frozen dataclass of plain values as text that no other value has, with the contents of files that it names.

    Like its repr, but of all fields, of the whole name of its class, and refused where something in it has no value
    to tell by.

    Raises:
        Unaddressable: it is, or holds, anything else.
    """
    kind = type(value)
    if kind in _TEXT:
        return f"{kind.__name__} {str(value)!r} {_contents(value)}"
    if kind is float and value.is_integer():
        return repr(int(value))  # a ratio of 2.0 is one of 2
    if kind in _PLAIN:
        return repr(value)
    try:
        if kind in (tuple, list):
            return f"{kind.__name__}({', '.join(map(described, value))})"
        if kind is dict:
            pairs = (f"{described(key)}: {described(item)}" for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
    except RecursionError as error:
        raise Unaddressable("a level holds something that holds itself") from error
    if not _is_frozen(kind):
        raise Unaddressable(
            f"what is in a {kind.__module__}.{kind.__qualname__} cannot be told; make it a frozen dataclass whose "
            "fields are numbers, texts, lists, mappings or such dataclasses"
        )
    pairs = (f"{f.name}={described(getattr(value, f.name))}" for f in fields(value))
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(pairs)})"


def _is_frozen(kind: type) -> bool:
    """Whether it is a frozen dataclass, and extends no class that keeps something beside fields."""
    frozen = is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    builtin = {base for base in kind.__mro__ if base.__module__ == "builtins"}
    return frozen and builtin == {object}


def _classes(levels: Mapping[str, Level]) -> Iterator[type]:
    """Classes of the levels and of all dataclasses inside them."""
    waiting: list[Any] = list(levels.values())
    described(waiting)  # refuses what holds itself, for one
    while waiting:
        value = waiting.pop()
        if is_dataclass(value):
            yield type(value)
            waiting += [getattr(value, f.name) for f in fields(value)]
        elif isinstance(value, tuple | list):
            waiting += value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]


def _contents(value: str | PurePath) -> str:
    """A hash of the file that a text names; empty where it names none.

    Raises:
        Unaddressable: it names a folder.
    """
    text = os.path.expanduser(value)
    if isinstance(value, str) and not ("." in text or "/" in text):
        return ""  # a word, whatever lies around
    if len(text) >= _LONGEST_PATH or "\0" in text:
        return ""
    if os.path.isdir(text):  # may hold anything, of any size, and every video asks again
        raise Unaddressable(
            f"{text} is a folder, whose contents do not count; name the files that are read from it"
        )
    if not os.path.isfile(text):
        return ""
    with open(text, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Bytes of a prompt: of tensors all of them, of x2l's dataclasses every field, of frames all but pixels."""
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}\n".encode()
        yield hashlib.blake2b(tensor_bytes(value)).digest()
    elif isinstance(value, SampledFrames):
        names = sorted(SampledFrames.__annotations__.keys() - _PLACE)
        yield from _parts({name: getattr(value, name) for name in (*names, "shape")})
    elif is_dataclass(value):
        names = [f.name for f in fields(value)]
        yield from _parts({name: getattr(value, name) for name in names})
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}\n".encode()
        for key, item in value.items():
            yield from _parts(key)
            yield from _parts(item)
    elif isinstance(value, tuple | list):
        yield f"list of {len(value)}\n".encode()
        for item in value:
            yield from _parts(item)
    elif type(value) in (str, *_PLAIN):
        yield f"{type(value).__name__} {value!r}\n".encode()
    else:
        raise Unaddressable(f"what is in a {type(value).__qualname__} of the prompt cannot be told")
