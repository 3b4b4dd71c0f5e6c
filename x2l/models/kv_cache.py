"""A Hugging Face cache whose layers grow in place and can be cut back, with a weight for each KV.

`DynamicCache` concatenates on every update, which copies the whole cache for each chunk and each decoded token.
Knows nothing of positions: they are always given explicitly beside the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class Buffers:
    """Memory for the KVs of one batch after another. Final.

    The host asks the system for large buffers anew every time, which takes longer than to fill them; a GPU's allocator
    keeps them by itself.
    """

    def __init__(self) -> None:
        """Without any."""
        self._flat: dict[int, Tensor] = {}

    def take(self, index: int, shape: Sequence[int], like: Tensor) -> Tensor:
        """The buffer of that index, of a shape; what it held before is lost."""
        size = math.prod(shape)
        if like.device.type != "cpu":
            return like.new_empty(*shape)
        if index not in self._flat or len(self._flat[index]) < size:
            self._flat[index] = like.new_empty(size)
        return self._flat[index][:size].view(*shape)


class BufferLayer(CacheLayerMixin):
    """Rotated keys and values of one layer in a buffer that doubles when full. Final."""

    is_sliding = False
    is_croppable = True

    def __init__(self, reserve: int = 0) -> None:
        """An empty layer; device, dtype and shape come with the first KVs, and then space for `reserve` KVs."""
        super().__init__()
        self.length, self.reserved = 0, reserve

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Takes dtype, device and shape from the first KVs."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((*key_states.shape[:2], 0, key_states.shape[3]))
        self.values = value_states.new_empty((*value_states.shape[:2], 0, value_states.shape[3]))
        self.is_initialized = True

    def reserve(self, capacity: int) -> None:
        """Makes room for `capacity` KVs in all."""
        assert self.keys is not None and self.values is not None
        if capacity <= self.keys.shape[2]:
            return
        keys = self.keys.new_empty((*self.keys.shape[:2], capacity, self.keys.shape[3]))
        values = self.values.new_empty((*self.values.shape[:2], capacity, self.values.shape[3]))
        keys[:, :, : self.length] = self.keys[:, :, : self.length]
        values[:, :, : self.length] = self.values[:, :, : self.length]
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends `(1, H, n, D)` KVs and returns views of everything cached."""
        return self.extend(key_states, value_states)

    def extend(
        self, key_states: Tensor, value_states: Tensor, reserve: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Like `update`, and keeps space for `reserve` more."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.length + key_states.shape[2]
        if end + reserve > self.keys.shape[2]:
            self.reserve(max(end + reserve, 2 * self.keys.shape[2] or self.reserved))
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def fill(self, keys: Tensor, values: Tensor, length: int) -> None:
        """Takes `(B, H, capacity, D)` buffers over, whose first `length` KVs count, in place of what it held."""
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.length = keys, values, length

    def keep_rows(self, rows: Tensor) -> None:
        """Forgets all but some rows of the batch, `(B',)` indices."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]

    def tail(self, start: int) -> tuple[Tensor, Tensor]:
        """Views of the KVs from `start` on, `(1, H, length - start, D)`."""
        assert self.keys is not None and self.values is not None
        return self.keys[:, :, start : self.length], self.values[:, :, start : self.length]

    def cut(self, length: int) -> None:
        """Forgets all but the first `length` KVs (the buffer stays)."""
        if not 0 <= length <= self.length:
            raise ValueError(
                f"length={length}: must lie between 0 and the {self.length} cached KVs"
            )
        self.length = length

    def crop(self, tokens_to_remove: int) -> None:
        """Hugging Face's spelling: a negative number of KVs to drop from the end."""
        self.cut(self.length + tokens_to_remove)

    def get_seq_length(self) -> int:
        """Number of cached KVs."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(KVs after the update, offset)."""
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def reset(self) -> None:
        """Forgets everything."""
        self.length = 0


class BufferCache(Cache):
    """One `BufferLayer` a model layer. Final."""

    layers: list[BufferLayer]  # type: ignore[assignment]  # every layer is one of ours

    def __init__(self, layers: int, reserve: int = 0) -> None:
        """An empty cache of `layers` layers.

        Args:
            layers: of the model.
            reserve: KVs a layer makes space for at its first one. A cache that outgrows its buffer needs three times
                its size while it is copied to one of twice the size.
        """
        super().__init__(layers=[BufferLayer(reserve) for _ in range(layers)])
        self._bias: list[Tensor | None] = [None] * layers

    @property
    def lengths(self) -> tuple[int, ...]:
        """Cached KVs, layer by layer."""
        return tuple(layer.length for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached keys and values (not of the spare buffer)."""
        return sum(t.nbytes for layer in self.layers if layer.is_initialized for t in layer.tail(0))

    @property
    def bias(self) -> tuple[Tensor | None, ...]:
        """Per layer, `(h, n)` or `(B, h, n)` added to the logits of the first n cached KVs; None = nothing to add."""
        return tuple(self._bias)

    def cut(self, lengths: tuple[int, ...]) -> None:
        """Forgets all but the first `lengths[i]` KVs of layer i."""
        for index, (layer, length) in enumerate(zip(self.layers, lengths, strict=True)):
            layer.cut(length)
            bias = self._bias[index]
            self._bias[index] = None if bias is None else bias[..., :length]

    def append(
        self, layer: int, keys: Tensor, values: Tensor, weights: Tensor, reserve: int = 0
    ) -> None:
        """Adds rotated KVs to a layer.

        Args:
            layer: its index.
            keys: `(B, H, n, D)`, rotated; B is the same of all that is ever added.
            values: `(B, H, n, D)`.
            weights: `(h, n)`, or `(B, h, n)`; the log of each is added to its attention logits from now on.
            reserve: space to reserve for that many more.
        """
        before = self.layers[layer].length
        self.layers[layer].extend(keys, values, reserve)
        old = self._bias[layer]
        if old is None and bool((weights == 1).all()):
            return
        new = weights.to(keys.device).log()
        if old is None:
            old = new.new_zeros(1, before)
        heads = torch.broadcast_shapes(old.shape[:-1], new.shape[:-1])
        gap = new.new_zeros(*heads, before - old.shape[-1])
        self._bias[layer] = torch.cat([old.expand(*heads, -1), gap, new.expand(*heads, -1)], dim=-1)

    def fill(self, layer: int, keys: Tensor, values: Tensor, weights: Tensor) -> None:
        """Puts rotated KVs into an empty layer without a copy.

        Args:
            layer: its index.
            keys: `(B, H, n + reserve, D)`, rotated; what lies behind the first n is space for more.
            values: `(B, H, n + reserve, D)`.
            weights: `(B, h, n)`, see `append`.
        """
        self.layers[layer].fill(keys, values, weights.shape[-1])
        if not bool((weights == 1).all()):
            self._bias[layer] = weights.log()

    def hide_next(self, counts: Tensor) -> None:
        """Nothing will attend to the next KVs of each row, `(B,)` counts of them: what fills shorter rows up."""
        most = int(counts.max())
        for index, (layer, old) in enumerate(zip(self.layers, self._bias, strict=True)):
            assert layer.keys is not None
            weights = (torch.arange(most) >= counts[:, None]).to(layer.keys)
            new = weights.log()[:, None]  # (B, 1, most)
            if old is None:
                old = new.new_zeros(len(counts), 1, 0)
            gap = new.new_zeros(*old.shape[:-1], layer.length - old.shape[-1])
            self._bias[index] = torch.cat([old, gap, new.expand(-1, old.shape[1], -1)], dim=-1)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forgets all but some rows of the batch."""
        for index, (layer, bias) in enumerate(zip(self.layers, self._bias, strict=True)):
            assert layer.keys is not None
            at = torch.tensor(rows, device=layer.keys.device)
            layer.keep_rows(at)
            self._bias[index] = None if bias is None else bias[at]
