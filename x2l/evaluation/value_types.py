"""Whether a plain value of a configuration is of an annotated type, and how a message says the type. Pure functions."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration is of an annotated type; objects that are still to be built are."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint in (int, float):
        kinds = int if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    if origin in (tuple, list, Sequence):
        return isinstance(value, list) and (
            all(fits(item, inner[0]) for item in value)
            if origin is not tuple or inner[1:] == (...,)
            else len(value) == len(inner) and all(map(fits, value, inner))
        )
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return isinstance(value, dict)
    if inspect.isclass(hint):  # an object: its own settings, or what some classes take for it
        return isinstance(value, dict) or hint is object or issubclass(hint, Path)
    return True


def rule(hint: Any) -> str:
    """What a value of that type must be, for a message."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(rule, inner)))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if hint is types.NoneType:
        return "null"
    if origin in (tuple, list, Sequence):
        return f"a list of {rule(inner[0]).removeprefix('a ')}" if inner else "a list"
    return _WORDS.get(hint, "several settings")


def told(value: Any) -> str:
    """A value as it is typed, not too long."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
