"""Layers that are stored as several parts: text beside compressed tokens, and heads of different length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from x2l.kv import HeadKeys, LayerKV, StoredLayer, concat_layers


def interleaved(text: LayerKV, visual: LayerKV) -> LayerKV:
    """Text KVs of a chunk and its visual KVs, by temporal position; every head keeps its own order."""
    both = concat_layers([text, visual])
    return both.take(_order(both.positions, both.keys.shape[1]))


def _order(positions: Tensor, heads: int) -> Tensor:
    """Indices `(heads, T)` of positions `(A, h, T)` by time, of equal ones the first first."""
    return positions[0].expand(heads, -1).argsort(dim=-1, stable=True)


@dataclass(frozen=True)
class Interleaved(StoredLayer):
    """Text inside a chunk, as it is, and the chunk's visual KVs in their own form. Final.

    Attributes:
        text: never compressed.
        visual: in any form.
    """

    text: StoredLayer
    visual: StoredLayer

    @property
    def tokens(self) -> int:
        """KVs a head, text included."""
        return self.text.tokens + self.visual.tokens

    @property
    def kv_count(self) -> int:
        """KVs of all heads together, text included."""
        return self.text.kv_count + self.visual.kv_count

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values of both parts as stored."""
        return self.text.nbytes + self.visual.nbytes

    @property
    @override
    def place_bytes(self) -> int:
        return self.text.place_bytes + self.visual.place_bytes

    @property
    @override
    def device(self) -> torch.device:
        return self.text.device

    def decoded_positions(self) -> Tensor:
        """Positions of both parts, in the order of `decode`."""
        both, order = self._both()
        return both.gather(2, order.expand(len(both), -1, -1))

    def with_positions(self, positions: Tensor) -> Interleaved:
        """Both parts at other positions."""
        both, order = self._both()
        order = order.expand(len(both), -1, -1)
        back = torch.empty_like(both).scatter_(2, order, positions.expand_as(both))
        split = self.text.tokens
        return Interleaved(
            self.text.with_positions(back[..., :split]),
            self.visual.with_positions(back[..., split:]),
        )

    def _both(self) -> tuple[Tensor, Tensor]:
        """Positions of text, then visual KVs, `(A, h, T)`, and their order in time, `(1, h, T)`."""
        parts = (self.text.decoded_positions(), self.visual.decoded_positions())
        heads = max(part.shape[1] for part in parts)
        both = torch.cat([part.expand(-1, heads, -1) for part in parts], dim=2)
        return both, _order(both, heads)[None]

    def map(self, do: Callable[[Tensor], Tensor]) -> Interleaved:
        """The same with `do` applied to every tensor."""
        return Interleaved(self.text.map(do), self.visual.map(do))

    def decode(self) -> LayerKV:
        """Both parts, by temporal position."""
        return interleaved(self.text.decode(), self.visual.decode())

    @property
    @override
    def decode_flops(self) -> int:
        """Of both parts."""
        return self.text.decode_flops + self.visual.decode_flops

    def head_keys(self, head: int, device: torch.device) -> HeadKeys:
        """Keys of one KV head of both parts, by temporal position."""
        parts = [part.head_keys(head, device) for part in (self.text, self.visual)]
        positions = torch.cat([part.positions for part in parts], dim=1)
        order = positions[0].argsort(stable=True)
        return HeadKeys(torch.cat([part.vectors for part in parts])[order], positions[:, order])

    def head_key_bytes(self, head: int) -> int:
        """Bytes of that head's keys in both parts."""
        return self.text.head_key_bytes(head) + self.visual.head_key_bytes(head)


@dataclass(frozen=True)
class Ragged(StoredLayer):
    """Heads that hold different numbers of KVs, each stored without padding. Final.

    Attention takes heads of one length, so `decode` fills up the shorter ones with KVs that weigh nothing: the log of 0
    on their logits means that no query sees them.

    Attributes:
        heads: one head each, in any form.
    """

    heads: tuple[StoredLayer, ...]

    @property
    def tokens(self) -> int:
        """KVs of the longest head."""
        return max(head.tokens for head in self.heads)

    @property
    def kv_count(self) -> int:
        """KVs of all heads together, without padding."""
        return sum(head.kv_count for head in self.heads)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values of all heads as stored."""
        return sum(head.nbytes for head in self.heads)

    @property
    @override
    def place_bytes(self) -> int:
        return sum(head.place_bytes for head in self.heads)

    @property
    @override
    def device(self) -> torch.device:
        return self.heads[0].device

    def decoded_positions(self) -> Tensor:
        """Positions of all heads, padded like `decode`."""
        return torch.cat(
            [_padded(head.decoded_positions(), self.tokens, 2) for head in self.heads], dim=1
        )

    def with_positions(self, positions: Tensor) -> Ragged:
        """All heads at other positions; those of padding are not looked at."""
        return Ragged(
            tuple(
                head.with_positions(positions[:, [index], : head.tokens])
                for index, head in enumerate(self.heads)
            )
        )

    def map(self, do: Callable[[Tensor], Tensor]) -> Ragged:
        """The same with `do` applied to every tensor."""
        return Ragged(tuple(head.map(do) for head in self.heads))

    def decode(self) -> LayerKV:
        """All heads, padded at the end."""
        return padded([head.decode() for head in self.heads])

    @property
    @override
    def decode_flops(self) -> int:
        """Of all heads."""
        return sum(head.decode_flops for head in self.heads)

    def head_keys(self, head: int, device: torch.device) -> HeadKeys:
        """Keys of one KV head, without padding."""
        return self.heads[head].head_keys(0, device)

    def head_key_bytes(self, head: int) -> int:
        """Bytes of that head's keys."""
        return self.heads[head].head_key_bytes(0)


def padded(heads: Sequence[LayerKV]) -> LayerKV:
    """Heads of different lengths side by side, filled up with copies of their last KV that weigh 0."""
    longest = max(head.tokens for head in heads)
    return LayerKV(
        torch.cat([_padded(head.keys, longest, 2) for head in heads], dim=1),
        torch.cat([_padded(head.values, longest, 2) for head in heads], dim=1),
        torch.cat([_padded(head.positions, longest, 2) for head in heads], dim=1),
        torch.cat(
            [torch.nn.functional.pad(head.weights, (0, longest - head.tokens)) for head in heads]
        ),
    )


def _padded(x: Tensor, length: int, axis: int) -> Tensor:
    """Repeats the last entry up to a length: any number that the model may see does, zeros at position 0 included."""
    missing = length - x.shape[axis]
    return torch.cat([x, x.narrow(axis, -1, 1).repeat_interleave(missing, axis)], dim=axis)


def by_head(layer: LayerKV) -> tuple[LayerKV, ...]:
    """Each head of a layer alone, without KVs that weigh nothing."""
    heads = []
    weights = layer.weights.expand(layer.keys.shape[1], -1)
    positions = layer.positions.expand(-1, layer.keys.shape[1], -1)
    for head, weight in enumerate(weights):
        there = (weight > 0).nonzero()[:, 0]
        alone = LayerKV(
            layer.keys[:, [head]], layer.values[:, [head]], positions[:, [head]], weight[None]
        )
        heads.append(alone.take(there))
    return tuple(heads)
