"""Values of a config.json in a foreign layout, checked before anything is built of them. One line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.activations import ACT2FN

_MOST_LAYERS, _MOST = 1000, 2**24  # beyond what any checkpoint has; building would not end
_LAYERS = ("num_hidden_layers", "depth")
_TOWER = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_PICTURES = ("image_size", "patch_size")


def check_values(
    values: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], needed: tuple[str, ...]
) -> None:
    """Checks what changes the arithmetic.

    Args:
        values: of a config.json.
        only: keys and what they may say; the first value stands for a key that is absent.
        needed: keys that must be there.

    Raises:
        ValueError: a key is missing, or says something else.
    """
    for name in needed:
        if name not in values:
            raise ValueError(f"config.json: {name} is missing; fetch the checkpoint again")
    for name, allowed in only.items():
        value = values.get(name, allowed[0])
        if value not in allowed:
            raise ValueError(unsupported(name, value, " or ".join(map(repr, allowed))))


def check_counts(values: Mapping[str, Any], names: tuple[str, ...], at: str = "") -> None:
    """Checks sizes and numbers of things.

    Args:
        values: of a config.json or of a mapping in it.
        names: keys that must be there.
        at: name of the mapping with a dot behind it.

    Raises:
        ValueError: one is no whole number above 0, or larger than any model's.
    """
    for name in names:
        value, most = values.get(name), _MOST_LAYERS if name in _LAYERS else _MOST
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(wrong(f"{at}{name}", value, f"a whole number from 1 to {most}"))


def check_tower(values: Any, at: str) -> None:
    """Checks the sizes of a vision tower in a mapping of their own.

    Raises:
        ValueError: it is no mapping, or a value cannot be a tower's.
    """
    check_mapping(values, at)
    check_counts(values, (*_TOWER, *_PICTURES), f"{at}.")
    check_heads(values, f"{at}.")
    if values["patch_size"] > values["image_size"]:
        rule = f"at most image_size={values['image_size']}"
        raise ValueError(wrong(f"{at}.patch_size", values["patch_size"], rule))


def check_text_tower(values: Any, at: str) -> None:
    """Checks the sizes of a text tower in a mapping of their own.

    Raises:
        ValueError: it is no mapping, or a value cannot be a tower's.
    """
    check_mapping(values, at)
    check_counts(values, (*_TOWER, "vocab_size", "max_position_embeddings"), f"{at}.")
    check_heads(values, f"{at}.")


def check_stock(config: Any) -> None:
    """Checks the sizes of a stock configuration's parts that go by their usual names.

    Args:
        config: of a transformers model.

    Raises:
        ValueError: one is no whole number above 0, or larger than any model's.
    """
    for part in ("text_config", "vision_config"):
        inner: Any = getattr(config, part, None)
        values = inner.to_dict() if hasattr(inner, "to_dict") else inner or {}
        usual = (*_TOWER, "num_key_value_heads", "depth", "vocab_size")
        names = tuple(name for name in usual if values.get(name) is not None)
        check_counts(values, names, f"{part}.")


def check_mapping(values: Any, name: str) -> None:
    """Checks that a value holds others.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(values, Mapping):
        raise ValueError(wrong(name, values, "a mapping of its sizes"))


def check_heads(values: Mapping[str, Any], at: str = "") -> None:
    """Checks that heads share the width evenly, and that the activation is one that there is.

    Raises:
        ValueError: they do not, or it is not.
    """
    width, heads = values["hidden_size"], values["num_attention_heads"]
    if width % heads:
        raise ValueError(
            wrong(f"{at}num_attention_heads", heads, f"a divisor of {width}, hidden_size")
        )
    act = values.get("hidden_act", "gelu")
    if not isinstance(act, str) or act not in ACT2FN:
        raise ValueError(wrong(f"{at}hidden_act", act, "the name of an activation of transformers"))


def check_number(values: Mapping[str, Any], name: str, at: str = "") -> None:
    """Checks a factor or a small constant.

    Raises:
        ValueError: it is no finite number above 0.
    """
    value = values.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value < float("inf")
    ):
        raise ValueError(wrong(f"{at}{name}", value, "a number above 0"))


def unsupported(name: str, value: Any, rule: str) -> str:
    """One line about a value that means another arithmetic."""
    return f"config.json: {name}={value!r}: must be {rule}, as no other arithmetic is supported"


def wrong(name: str, value: Any, rule: str) -> str:
    """One line about a value that no checkpoint can have."""
    return f"config.json: {name}={value!r}: must be {rule}; fetch the checkpoint again"
