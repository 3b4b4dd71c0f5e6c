"""The KV value type: keys and values of some tokens, for every layer, before rotary positions are applied.

Shape legend, used in the whole package:
    B batch (always 1)   H KV heads   Q query heads   T tokens   D head dimension   A position axes (1, or 3 for M-RoPE)

Knows nothing of models, chunks or compressors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override


@dataclass(frozen=True)
class HeadKeys:
    """Keys of one KV head, in time order.

    Attributes:
        vectors: `(T, D)`, un-rotated.
        positions: `(A, T)`.
    """

    vectors: Tensor
    positions: Tensor


class StoredLayer(ABC):
    """Abstract: KVs of one layer in the form in which they wait; `decode` gives what attention can use.

    `PlainLayer` has keys and values as they are; compressors/quantisation.py has a smaller form,
    compressors/stored_forms.py what is put together of several.
    """

    @property
    @abstractmethod
    def tokens(self) -> int:
        """KVs a head, once decoded; where heads hold different numbers, of the longest."""

    @property
    @abstractmethod
    def kv_count(self) -> int:
        """KVs of all heads together."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of keys and values as stored, which is what a budget buys."""

    @property
    @abstractmethod
    def place_bytes(self) -> int:
        """Bytes of positions and weights as stored."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of all of it as stored."""
        return self.nbytes + self.place_bytes

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they lie."""

    @abstractmethod
    def decoded_positions(self) -> Tensor:
        """The positions `(A, h, T)` that they have once decoded."""

    @abstractmethod
    def with_positions(self, positions: Tensor) -> Self:
        """The same KVs at other positions `(A, h, T)`, in the same order."""

    @abstractmethod
    def map(self, do: Callable[[Tensor], Tensor]) -> Self:
        """The same with `do` applied to every tensor, which must keep its shape."""

    @property
    def decode_flops(self) -> int:
        """Floating point operations of `decode`, 2 per multiply-add."""
        return 0

    @abstractmethod
    def decode(self) -> LayerKV:
        """The KVs, in the dtype that the model computes in."""

    @abstractmethod
    def head_keys(self, head: int, device: torch.device) -> HeadKeys:
        """Keys of one KV head on `device`; nothing else is copied or decoded."""

    @abstractmethod
    def head_key_bytes(self, head: int) -> int:
        """Bytes of that head's keys as stored."""

    def to(self, device: torch.device | str) -> Self:
        """The same KVs on `device`, in the form they are in.

        A copy to a GPU is queued there and not waited for: whatever uses it is queued behind it. A copy to the host
        is waited for, since nothing else would make a reader on the host wait (see engine/host_copy.py).
        """
        queued = torch.device(device).type != "cpu"
        return self.map(lambda tensor: tensor.to(device, non_blocking=queued))


@dataclass(frozen=True)
class Compact:
    """Numbers `(..., T)` in the smallest type that holds each of them exactly, counted from the least of each row.

    Whole numbers take one or two bytes where they lie close together; a row of equal numbers takes no more than one of
    them. Means of positions, which are not whole, take what they took.

    Attributes:
        steps: `(..., T)` uint8, int16 or int32 above `start`; `(..., 1)` where all numbers of every row are equal; or
            the numbers themselves, and `start` is empty.
        start: `(..., 1)`, as the numbers were.
        tokens: T.
    """

    steps: Tensor
    start: Tensor
    tokens: int

    @staticmethod
    def of(numbers: Tensor) -> Compact:
        """The numbers `(..., T)`, float, in that form."""
        tokens = numbers.shape[-1]
        if not tokens:
            return Compact.as_is(numbers)
        start = numbers.amin(dim=-1, keepdim=True)
        above = numbers - start
        facts = torch.stack([above.max(), (above != above.round()).any().to(above.dtype)])
        most, broken = facts.tolist()
        # Half of a dtype's range of whole numbers: beyond, the difference may have been rounded.
        if broken or most > 2**22 or not bool((start + above == numbers).all()):
            return Compact.as_is(numbers)
        if most == 0:
            return Compact(above[..., :1].to(torch.uint8), start, tokens)
        kind = torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32
        return Compact(above.to(kind), start, tokens)

    @staticmethod
    def as_is(numbers: Tensor) -> Compact:
        """The same numbers without a look at them, for what is used at once."""
        return Compact(numbers, numbers.new_empty(0), numbers.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.steps.nbytes + self.start.nbytes

    def map(self, do: Callable[[Tensor], Tensor]) -> Compact:
        """The same with `do` applied to both tensors."""
        return Compact(do(self.steps), do(self.start), self.tokens)

    def numbers(self) -> Tensor:
        """The numbers `(..., T)`, as they were."""
        if not self.start.numel():
            return self.steps
        whole = self.steps.to(self.start.dtype) + self.start
        return whole.expand(*whole.shape[:-1], self.tokens)


@dataclass(frozen=True)
class LayerKV(StoredLayer):
    """KVs of one layer, in time order, as attention and compressors use them.

    Attributes:
        keys: `(1, H, T, D)`, un-rotated: pooling and merging average keys, which is meaningless after RoPE,
            and one store then serves both `keep` and `compact` positions.
        values: `(1, H, T, D)`.
        positions: `(A, h, T)` float, the rotary position of each KV; h is 1 where all heads share it, else H.
            Float because an averaged KV stands at the mean of its members.
        weights: `(h, T)` float, how many tokens a KV stands for in attention (log(weight) is added to its logits).
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        """Checks the shapes against each other.

        Raises:
            ValueError: two fields disagree on tokens or heads.
        """
        heads, tokens = self.keys.shape[1], self.keys.shape[2]
        if self.values.shape[:3] != self.keys.shape[:3]:
            raise ValueError(
                f"values {tuple(self.values.shape)} must match keys {tuple(self.keys.shape)} in (1, H, T)"
            )
        for name, field in (("positions", self.positions[0]), ("weights", self.weights)):
            if field.shape[-1] != tokens or field.shape[0] not in (1, heads):
                raise ValueError(
                    f"{name}: (heads, tokens)={tuple(field.shape)} must be (1 or {heads}, {tokens})"
                )

    @property
    @override
    def tokens(self) -> int:
        return self.keys.shape[2]

    @property
    def kv_count(self) -> int:
        """KVs of all heads together."""
        return self.keys.shape[1] * self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    @property
    @override
    def place_bytes(self) -> int:
        return self.positions.nbytes + self.weights.nbytes

    @property
    @override
    def device(self) -> torch.device:
        return self.keys.device

    def take(self, index: Tensor) -> LayerKV:
        """The KVs at `index`: `(T',)` for all heads alike, or `(H, T')` for each head its own."""
        if index.ndim == 1:
            return LayerKV(
                self.keys[:, :, index],
                self.values[:, :, index],
                self.positions[..., index],
                self.weights[..., index],
            )
        heads = index.shape[0]
        rows = index[None, :, :, None].expand(1, heads, index.shape[1], self.keys.shape[-1])
        axes = self.positions.shape[0]
        positions = self.positions.expand(axes, heads, -1)
        return LayerKV(
            self.keys.gather(2, rows),
            self.values.gather(2, rows),
            positions.gather(2, index[None].expand(axes, -1, -1)),
            self.weights.expand(heads, -1).gather(1, index),
        )

    @override
    def decoded_positions(self) -> Tensor:
        return self.positions

    def with_positions(self, positions: Tensor) -> LayerKV:
        """The same KVs at other positions."""
        return replace(self, positions=positions)

    def map(self, do: Callable[[Tensor], Tensor]) -> LayerKV:
        """The same with `do` applied to every tensor."""
        return LayerKV(do(self.keys), do(self.values), do(self.positions), do(self.weights))

    @override
    def decode(self) -> LayerKV:
        return self

    def head_keys(self, head: int, device: torch.device) -> HeadKeys:
        """Keys of one KV head."""
        at = self.positions[:, head % self.positions.shape[1]]
        return HeadKeys(self.keys[0, head].to(device), at.to(device))

    def head_key_bytes(self, head: int) -> int:
        """Bytes of that head's keys."""
        return self.keys[0, head].nbytes


@dataclass(frozen=True)
class PlainLayer(StoredLayer):
    """One layer's KVs with keys and values as they are. Final.

    Attributes:
        keys: `(1, H, T, D)`, un-rotated.
        values: `(1, H, T, D)`.
        positions: those of `LayerKV`.
        weights: those of `LayerKV`.
    """

    keys: Tensor
    values: Tensor
    positions: Compact
    weights: Compact

    @staticmethod
    def of(layer: LayerKV) -> PlainLayer:
        """A layer in this form."""
        places = Compact.of(layer.positions), Compact.of(layer.weights)
        return PlainLayer(layer.keys, layer.values, *places)

    @property
    @override
    def tokens(self) -> int:
        return self.keys.shape[2]

    @property
    @override
    def kv_count(self) -> int:
        return self.keys.shape[1] * self.keys.shape[2]

    @property
    @override
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    @override
    def place_bytes(self) -> int:
        return self.positions.nbytes + self.weights.nbytes

    @property
    @override
    def device(self) -> torch.device:
        return self.keys.device

    @override
    def decoded_positions(self) -> Tensor:
        return self.positions.numbers()

    @override
    def with_positions(self, positions: Tensor) -> PlainLayer:
        return replace(self, positions=Compact.as_is(positions))

    @override
    def map(self, do: Callable[[Tensor], Tensor]) -> PlainLayer:
        places = self.positions.map(do), self.weights.map(do)
        return PlainLayer(do(self.keys), do(self.values), *places)

    @override
    def decode(self) -> LayerKV:
        return LayerKV(self.keys, self.values, self.positions.numbers(), self.weights.numbers())

    @override
    def head_keys(self, head: int, device: torch.device) -> HeadKeys:
        positions = self.positions.numbers()
        at = positions[:, head % positions.shape[1]]
        return HeadKeys(self.keys[0, head].to(device), at.to(device))

    @override
    def head_key_bytes(self, head: int) -> int:
        return self.keys[0, head].nbytes


def concat_layers(stored: Sequence[StoredLayer]) -> LayerKV:
    """Joins one layer's KVs along the tokens, in the order given, decoded on the device of the first."""
    device = stored[0].device
    # Most lie there already, and asking is cheaper than making every part anew.
    there = (part if part.device == device else part.to(device) for part in stored)
    parts = [part.decode() for part in there]
    heads = max(max(part.positions.shape[1], part.weights.shape[0]) for part in parts)
    axes = parts[0].positions.shape[0]
    return LayerKV(
        torch.cat([part.keys for part in parts], dim=2),
        torch.cat([part.values for part in parts], dim=2),
        torch.cat([part.positions.expand(axes, heads, -1) for part in parts], dim=2),
        torch.cat([part.weights.expand(heads, -1) for part in parts], dim=1),
    )


@dataclass(frozen=True)
class KV:
    """KVs of some tokens for all layers, ready for use.

    The layers may hold different numbers of them, and lie on different devices where a model is spread over several.
    """

    layers: tuple[LayerKV, ...]

    def __iter__(self) -> Iterator[LayerKV]:
        """Layer by layer."""
        return iter(self.layers)

    @property
    def tokens(self) -> tuple[int, ...]:
        """KVs a head, layer by layer."""
        return tuple(layer.tokens for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all of it, positions and weights included."""
        return sum(layer.stored_bytes for layer in self.layers)

    def to(self, device: torch.device | str) -> KV:
        """The same KVs on `device`."""
        return KV(tuple(layer.to(device) for layer in self.layers))


@dataclass(frozen=True)
class StoredKV:
    """KVs of some tokens for all layers, in the form in which they wait."""

    layers: tuple[StoredLayer, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """KVs a head, layer by layer; where heads hold different numbers, of the longest."""
        return tuple(layer.tokens for layer in self.layers)

    @property
    def kv_count(self) -> int:
        """KVs of all layers and heads together."""
        return sum(layer.kv_count for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values as stored."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all of it as stored, positions and weights included."""
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def decode_flops(self) -> int:
        """Floating point operations of `decode`."""
        return sum(layer.decode_flops for layer in self.layers)

    def decode(self) -> KV:
        """The KVs, ready for use."""
        return KV(tuple(layer.decode() for layer in self.layers))


def concat(parts: Sequence[KV | StoredKV]) -> KV:
    """Joins KVs along the tokens, layer by layer, in the order given, and decodes them.

    Each layer lies where the first part has it. What is copied there is the stored form; of copies and decoded KVs
    only one layer's live at a time.

    Raises:
        ValueError: nothing to join, or a different number of layers.
    """
    if not parts:
        raise ValueError("parts=[]: at least one KV must be given")
    if len({len(part.layers) for part in parts}) != 1:
        raise ValueError(
            f"parts must have the same number of layers, got {[len(part.layers) for part in parts]}"
        )
    layers = zip(*(part.layers for part in parts), strict=True)
    return KV(tuple(concat_layers(stored) for stored in layers))
