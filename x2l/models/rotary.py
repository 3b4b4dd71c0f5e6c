"""RoPE put on and taken off keys, with the decoder's own tables and its own function."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from x2l.kv import LayerKV

# Tables that depend on positions alone. "dynamic" ones (InternVL3) do so up to the model's context length; beyond, they
# change with the input, as "longrope" ones do, and keys rotated in one call could not be un-rotated in another.
FIXED = ("default", "linear", "llama3", "yarn", "dynamic")


def fixed_positions(text: Any) -> int | None:
    """Positions for which a text configuration's tables are fixed; None = all."""
    kind = (text.rope_parameters or {}).get("rope_type", "default")
    return int(text.max_position_embeddings) if kind == "dynamic" else None


def _function(decoder: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The decoder's own RoPE on one tensor: (x `(B, H, T, D)`, cos, sin `(B, T, D)`) -> x."""
    function = sys.modules[type(decoder).__module__].apply_rotary_pos_emb
    if list(inspect.signature(function).parameters)[:2] == ["q", "k"]:
        return lambda x, cos, sin: function(x, x[:, :1], cos, sin)[0]
    return function


def check_rope(text: Any) -> None:
    """Checks a text configuration.

    Raises:
        ValueError: its tables depend on more than positions.
    """
    kind = (text.rope_parameters or {}).get("rope_type", "default")
    if kind not in FIXED:
        raise ValueError(
            f"model.name_or_path: its RoPE is of type {kind!r}, whose tables change with the length of the input; "
            f"cached keys need one of {FIXED} (for long inputs: yarn)"
        )


def context_length(text: Any) -> int | None:
    """Positions that a text configuration's model was made for, stretched where its RoPE is; None = not said."""
    length = getattr(text, "max_position_embeddings", None)
    rope = text.rope_parameters or {}
    factor = float(rope.get("factor") or 1)
    if length is None or rope.get("rope_type") not in ("linear", "yarn"):
        return length
    if rope["rope_type"] == "yarn":
        trained = rope.get("original_max_position_embeddings") or length
        return max(length, round(trained * factor))
    return round(length * factor)


class Rotary:
    """RoPE of one decoder. Final, without state."""

    def __init__(self, decoder: Any, axes: int, dtype: torch.dtype) -> None:
        """For a decoder that `check_rope` accepts, with 1 or 3 position axes; `dtype` is the model's."""
        self._decoder, self._axes = decoder, axes
        self._turn = _function(decoder)
        # At least fp32, whatever the model's dtype: rounding would add up over un-rotating and rotating again.
        self._precise = torch.float64 if dtype == torch.float64 else torch.float32

    def _tables(self, positions: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cos and sin `(h, T, D)` at positions `(A, h, T)`."""
        like = torch.empty(0, dtype=self._precise, device=device)
        at = positions.to(device)
        cos, sin = self._decoder.rotary_emb(like, at if self._axes == 3 else at[0])
        return cos.to(device), sin.to(device)

    def _apply(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """RoPE with a table for each head (or one for all): heads stand in for the batch."""
        turned = self._turn(keys.to(cos.dtype).transpose(0, 1), cos, sin)
        return turned.transpose(0, 1).to(keys.dtype)

    def rotate(self, layer: LayerKV) -> Tensor:
        """Keys `(1, H, T, D)` with RoPE at the layer's positions."""
        cos, sin = self._tables(layer.positions, layer.keys.device)
        return self._apply(layer.keys, cos, sin)

    def apply_rope(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Vectors `(1, heads, T, D)` with RoPE at `(A, T)`."""
        return self._apply(vectors, *self._tables(positions[:, None], vectors.device))

    def unrotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Rotated keys `(1, H, T, D)` at `(A, T)` -> keys before RoPE.

        Divides by cos^2 + sin^2, which is the square of YaRN's scaling where a model has one, and removes the fp32
        rounding of the tables, so that re-rotating gives back fp64 keys to 1e-15.
        """
        cos, sin = self._tables(positions[:, None], keys.device)
        norm = cos * cos + sin * sin
        return self._apply(keys, cos / norm, -sin / norm)
