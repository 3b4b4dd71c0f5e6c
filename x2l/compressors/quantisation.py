"""Quantised KVs: the form in which a level's KVs wait in memory, and how it is made and undone.

Apart from how KVs are chosen: any compressor's KVs can be stored so. Bytes are those of the stored form, scales and
zeros included; whoever attends to a level sees its KVs decoded, with the error.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from x2l.kv import Compact, HeadKeys, LayerKV, PlainLayer, StoredLayer

BITS = (2, 4, 8)
TOKENS, CHANNELS = 2, 3  # axes of (1, H, T, D)
_SCALE_BYTES = 2 * torch.float16.itemsize  # a scale and a zero
_SMALLEST = 2**-24  # that fp16 can hold


@dataclass(frozen=True)
class Packed:
    """`(1, H, T, D)` numbers as small integers, with a scale and a zero for each group of neighbours along one axis.

    Attributes:
        codes: `(1, H, T, ceil(D * bits / 8))` uint8; of several codes in a byte the first channel's is lowest.
        scales: fp16, `(1, H, groups, D)` or `(1, H, T, groups)`; number = zero + scale * code.
        zeros: like `scales`.
        bits: of a code.
        group: numbers in a group; the last may be shorter.
        axis: along which groups lie, `TOKENS` or `CHANNELS`.
        width: D.
        dtype: of the numbers.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    group: int
    axis: int
    width: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros."""
        return self.codes.nbytes + self.scales.nbytes + self.zeros.nbytes

    def map(self, do: Callable[[Tensor], Tensor]) -> Packed:
        """The same with `do` applied to every tensor."""
        return replace(self, codes=do(self.codes), scales=do(self.scales), zeros=do(self.zeros))

    def of_head(self, head: int) -> Packed:
        """The numbers of one head, `(1, 1, T, D)`."""
        return self.map(lambda tensor: tensor[:, [head]])

    def unpacked(self) -> Tensor:
        """The numbers `(1, H, T, D)`, each within half of its group's scale of what it was, and rounding to `dtype`."""
        in_byte = 8 // self.bits
        shifts = self.bits * torch.arange(in_byte, device=self.codes.device, dtype=torch.uint8)
        codes = (self.codes[..., None] >> shifts) & (2**self.bits - 1)
        codes = codes.flatten(-2)[..., : self.width]
        exact = torch.promote_types(self.dtype, torch.float32)
        scales, zeros = (
            part.to(exact)
            .repeat_interleave(self.group, self.axis)
            .narrow(self.axis, 0, codes.shape[self.axis])
            for part in (self.scales, self.zeros)
        )
        return (zeros + scales * codes).to(self.dtype)


def packed(x: Tensor, bits: int, group: int, axis: int) -> Packed:
    """Quantises numbers `(1, H, T, D)` asymmetrically, between the least and the largest of each group.

    Args:
        x: the numbers.
        bits: of a code, one of `BITS`.
        group: numbers in a group.
        axis: along which groups lie.

    Raises:
        ValueError: a number that fp16 scales cannot reach.
    """
    levels, exact = 2**bits - 1, torch.promote_types(x.dtype, torch.float32)
    rows = x.to(exact).movedim(axis, -1)
    missing = -rows.shape[-1] % group
    rows = torch.cat([rows, rows[..., -1:].expand(*rows.shape[:-1], missing)], dim=-1)
    rows = rows.unflatten(-1, (-1, group))
    # Rounded outwards, so that every number lies between zero and zero + scale * levels.
    zeros = _fp16(rows.amin(dim=-1), -1)
    scales = _fp16((rows.amax(dim=-1) - zeros.to(exact)) / levels, 1)
    if not bool((zeros.isfinite() & scales.isfinite()).all()):
        raise ValueError(
            f"codec: KVs between {float(x.min()):.3g} and {float(x.max()):.3g} cannot be quantised: scales and zeros "
            f"are fp16, which ends at 65504; store this level without a codec"
        )
    steps = scales.to(exact)[..., None].clamp(min=_SMALLEST)  # of equal numbers the scale is 0
    codes = ((rows - zeros.to(exact)[..., None]) / steps).round().clamp(0, levels).to(torch.uint8)
    codes = codes.flatten(-2)[..., : x.shape[axis]].movedim(-1, axis)
    return Packed(
        _bytes(codes, bits),
        scales.movedim(-1, axis).contiguous(),
        zeros.movedim(-1, axis).contiguous(),
        bits,
        group,
        axis,
        x.shape[-1],
        x.dtype,
    )


def _fp16(x: Tensor, sign: int) -> Tensor:
    """The numbers in fp16, never below (sign 1) or never above (sign -1) what they are."""
    near = x.to(torch.float16)
    # An ulp of fp16 is at most 2^-10 of the number, or 2^-24.
    beyond = (x + sign * (x.abs() * 2**-10 + _SMALLEST)).to(torch.float16)
    return torch.where((near - x) * sign < 0, beyond, near)


def _bytes(codes: Tensor, bits: int) -> Tensor:
    """Codes `(..., D)` in as few bytes as they take; what is left of the last byte is zero."""
    in_byte = 8 // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % in_byte))
    shifts = bits * torch.arange(in_byte, device=codes.device, dtype=torch.uint8)
    return (padded.unflatten(-1, (-1, in_byte)) << shifts).sum(dim=-1, dtype=torch.uint8)


@dataclass(frozen=True)
class EncodedLayer(StoredLayer):
    """One layer's KVs with quantised keys and values. Final.

    Attributes:
        keys: quantised, un-rotated.
        values: quantised.
        positions: those of `LayerKV`.
        weights: those of `LayerKV`.
    """

    keys: Packed
    values: Packed
    positions: Compact
    weights: Compact

    @property
    def tokens(self) -> int:
        """Number of KVs a head."""
        return self.keys.codes.shape[TOKENS]

    @property
    def kv_count(self) -> int:
        """KVs of all heads together."""
        return self.keys.codes.shape[1] * self.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    @property
    @override
    def place_bytes(self) -> int:
        return self.positions.nbytes + self.weights.nbytes

    @property
    @override
    def device(self) -> torch.device:
        return self.keys.codes.device

    @override
    def decoded_positions(self) -> Tensor:
        return self.positions.numbers()

    def map(self, do: Callable[[Tensor], Tensor]) -> EncodedLayer:
        """The same with `do` applied to every tensor."""
        keys, values = self.keys.map(do), self.values.map(do)
        return EncodedLayer(keys, values, self.positions.map(do), self.weights.map(do))

    def with_positions(self, positions: Tensor) -> EncodedLayer:
        """The same KVs at other positions."""
        return replace(self, positions=Compact.as_is(positions))

    @property
    @override
    def decode_flops(self) -> int:
        """One multiply-add for each entry of keys and values."""
        return 4 * self.kv_count * self.keys.width

    def decode(self) -> LayerKV:
        """The KVs, with what quantisation lost."""
        places = self.positions.numbers(), self.weights.numbers()
        return LayerKV(self.keys.unpacked(), self.values.unpacked(), *places)

    def head_keys(self, head: int, device: torch.device) -> HeadKeys:
        """Keys of one KV head; their codes are copied, and decoded on the device."""
        codes = self.keys.of_head(head).map(lambda tensor: tensor.to(device))
        positions = self.positions.numbers()
        at = positions[:, head % positions.shape[1]]
        return HeadKeys(codes.unpacked()[0, 0], at.to(device))

    def head_key_bytes(self, head: int) -> int:
        """Bytes of that head's codes, scales and zeros."""
        return self.keys.of_head(head).nbytes


class Codec(ABC):
    """Abstract: a form in which a level's KVs are stored."""

    @abstractmethod
    def encode(self, layer: LayerKV) -> StoredLayer:
        """The layer in that form, or in the plain one where it would not get smaller.

        Raises:
            ValueError: a number that cannot be stored so.
        """

    @abstractmethod
    def check(self, heads: int, tokens: int, head_dim: int, itemsize: int) -> None:
        """Checks that KVs get smaller.

        Args:
            heads: KV heads.
            tokens: KVs that the level keeps of its largest chunk.
            head_dim: of the model.
            itemsize: bytes of a number as the model has it.

        Raises:
            ValueError: they do not, so the level would be stored as if it had no codec.
        """

    @abstractmethod
    def flops(self, heads: int, tokens: int, head_dim: int) -> int:
        """Floating point operations of encoding one layer, 2 per multiply-add."""


@dataclass(frozen=True)
class Quantised(Codec):
    """Integers of few bits in groups: keys along the tokens of each channel, values along the channels of each token.

    As KIVI (Liu et al., arXiv 2402.02750), since keys have channels that are large throughout and values do not.
    Adapted: keys before RoPE, as x2l stores them; all of a chunk's KVs at once, so none wait unquantised for a group to
    fill up, and the last group is shorter where the count does not divide.

    Attributes:
        bits: of a number: 2, 4 or 8.
        group: numbers that share a scale and a zero (KIVI: 32).
    """

    bits: int = 4
    group: int = 32

    def __post_init__(self) -> None:
        """Checks bits and group.

        Raises:
            ValueError: not one of `BITS`, or a group of fewer than two.
        """
        if self.bits not in BITS:
            raise ValueError(f"codec.bits={self.bits!r}: must be one of {BITS}")
        if self.group < 2:
            raise ValueError(
                f"codec.group={self.group!r}: must be >= 2, as every group stores a scale and a zero"
            )

    def encode(self, layer: LayerKV) -> StoredLayer:
        """The layer quantised; plain where that would not make it smaller (see `check`).

        Raises:
            ValueError: a number that fp16 scales cannot reach.
        """
        _, heads, tokens, width = layer.keys.shape
        if self.nbytes(heads, tokens, width) >= layer.nbytes:
            return PlainLayer.of(layer)
        return EncodedLayer(
            packed(layer.keys, self.bits, self.group, TOKENS),
            packed(layer.values, self.bits, min(self.group, width), CHANNELS),
            Compact.of(layer.positions),
            Compact.of(layer.weights),
        )

    def nbytes(self, heads: int, tokens: int, head_dim: int) -> int:
        """Bytes of that many quantised keys and values of one layer."""
        codes = math.ceil(head_dim * self.bits / 8) * tokens
        keys = math.ceil(tokens / self.group) * head_dim
        values = math.ceil(head_dim / self.group) * tokens
        return heads * (2 * codes + _SCALE_BYTES * (keys + values))

    def check(self, heads: int, tokens: int, head_dim: int, itemsize: int) -> None:
        """Checks that scales and zeros do not outweigh what smaller numbers save.

        Raises:
            ValueError: they do.
        """
        plain = 2 * heads * tokens * head_dim * itemsize
        stored = self.nbytes(heads, tokens, head_dim)
        if stored >= plain:
            raise ValueError(
                f"codec.group={self.group}: {tokens} kept KVs a chunk of {plain} bytes would take {stored} bytes with "
                f"{self.bits} bits, since scales and zeros outweigh the codes; use a lower ratio, larger chunks "
                f"(prefill.chunk_frames), or no codec for this level"
            )

    def flops(self, heads: int, tokens: int, head_dim: int) -> int:
        """One multiply-add for each entry of keys and values."""
        return 4 * heads * tokens * head_dim
