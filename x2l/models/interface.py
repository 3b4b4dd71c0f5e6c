"""What the engine may ask of a model. Everything that differs between architectures ends behind this page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from x2l import UserError
from x2l.frames import SampledFrames
from x2l.kv import LayerKV
from x2l.models.attention import AttentionCapture
from x2l.models.kv_cache import BufferCache, Buffers
from x2l.models.prompt import Chunk, Prompt, Question


@dataclass(frozen=True)
class ModelShape:
    """The sizes of the language model that FLOPs and bytes follow from.

    `mlp_weights` are those that one token meets in each layer's MLP: of a mixture of experts the router and the active
    ones. `context_length` is the number of positions it was made for; None = not said.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_weights: tuple[int, ...]
    vocabulary: int
    kv_itemsize: int
    context_length: int | None

    def first(self, layers: int) -> ModelShape:
        """The same model cut behind its first `layers` layers."""
        return replace(self, layers=layers, mlp_weights=self.mlp_weights[:layers])


@dataclass(frozen=True)
class Embedded:
    """What the language model receives for a span of the prompt.

    Attributes:
        embeds: `(1, T, hidden)`.
        extras: what the family's decoder takes beside them (Qwen3-VL: visual features for its first layers).
        flops: operations of the vision tower and projector, by torch's counter; 0 for text.
        is_summary: `(T,)` bool, True for summary tokens (Video-XL); None where there are none.
    """

    embeds: Tensor
    extras: Mapping[str, Any] = field(default_factory=dict)
    flops: int = 0
    is_summary: Tensor | None = None


class NotFiniteError(UserError, ArithmeticError):
    """Logits that are no numbers; the message names the dtype and what helps."""


class VideoModel(ABC):
    """A video language model that can be pre-filled chunk by chunk. Abstract; holds no state between calls.

    Attributes:
        shape: sizes, for engine/flops.py.
        axes: position axes, 1 or 3 (M-RoPE).
        temporal_patch: frames that make one time step.
        device: where the language model's first layer lies.
        dtype: of weights and KVs.
        scaling: the factor on query-key products.
        has_summary_tokens: whether it was trained with summary tokens, and has weights for them.
    """

    shape: ModelShape
    axes: int
    temporal_patch: int
    device: torch.device
    dtype: torch.dtype
    scaling: float
    has_summary_tokens: bool

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that the model brings to a pre-fill: weights, configuration, processor, arithmetic.

        Raises:
            UntoldWeights: some weights are not in memory, and no commit on the Hub stands for them.
        """

    @property
    @abstractmethod
    def layer_devices(self) -> tuple[torch.device, ...]:
        """The device of each decoder layer, and so of its KVs."""

    @abstractmethod
    def prompt(self, frames: SampledFrames, chunk_frames: int) -> Prompt:
        """Prepares a video and the text before it, cut into chunks of `chunk_frames` frames."""

    @abstractmethod
    def question(self, text: str) -> Question:
        """The tokens of the user's turn after the video."""

    @abstractmethod
    def text_tokens(self, text: str) -> Tensor:
        """The tokens of a text that stands inside a prompt, `(tokens,)`."""

    @abstractmethod
    def looked_at(self, chunk: Chunk) -> tuple[int, int]:
        """(first, one past last) of the frames that `visual_inputs` needs to see for a chunk."""

    @abstractmethod
    def visual_inputs(self, prompt: Prompt, chunk: Chunk, pixels: Tensor) -> Mapping[str, Any]:
        """What the vision tower takes for a chunk, made on the host.

        Args:
            prompt: of the video.
            chunk: of the prompt.
            pixels: of the frames `looked_at(chunk)`, `(frames, height, width, 3)`.
        """

    @abstractmethod
    def embed_chunk(
        self, prompt: Prompt, chunk: Chunk, inputs: Mapping[str, Any] | None = None
    ) -> Embedded:
        """Runs the vision tower for one chunk; memory does not grow with the video.

        Args:
            prompt: of the video.
            chunk: of the prompt.
            inputs: from `visual_inputs`; None = the chunk's frames are read and prepared now.
        """

    @abstractmethod
    def embed_text(self, input_ids: Tensor) -> Embedded:
        """Embeddings of `(tokens,)` text ids."""

    @abstractmethod
    def with_summary_tokens(self, embedded: Embedded, at: Tensor) -> Embedded:
        """The same span with summary tokens between its own, at indices `(n,)` of the longer span.

        Raises:
            ValueError: the model has no weights for them.
        """

    @abstractmethod
    def prefill_span(
        self,
        embedded: Embedded,
        positions: Tensor,
        cache: BufferCache,
        capture: AttentionCapture | None = None,
    ) -> None:
        """Runs the decoder over a span at explicit positions `(A, T)`; its rotated KVs are appended to the cache.

        Ends early where `watch.last` says so; the cache is then of no further use.
        """

    @abstractmethod
    def logits(
        self,
        embedded: Embedded,
        positions: Tensor,
        cache: BufferCache,
        capture: AttentionCapture | None = None,
    ) -> Tensor:
        """Like `prefill_span`, and returns the logits after the last token, `(B, vocabulary)`.

        Positions are `(A, T)`, or `(A, B, T)` where rows differ.

        Raises:
            NotFiniteError: one of them is NaN or infinite; no answer may be read from them.
        """

    @abstractmethod
    def rotate(self, layer: LayerKV) -> Tensor:
        """Keys `(1, H, T, D)` with RoPE at the layer's positions."""

    @abstractmethod
    def apply_rope(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Vectors `(1, heads, T, D)` with RoPE at `(A, T)`: what `rotate` does to keys."""

    @abstractmethod
    def unrotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Rotated keys `(1, H, T, D)` at `(A, T)` -> keys before RoPE, the exact inverse of `rotate`."""

    @abstractmethod
    def decode_text(self, token_ids: list[int]) -> str:
        """Text of generated tokens, special tokens left out."""

    @property
    @abstractmethod
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end an answer."""

    def load_cache(self, layers: Iterable[LayerKV], reserve: int = 0) -> BufferCache:
        """A cache that holds the first layers' KVs, rotated and weighted, with space for `reserve` more tokens.

        Uses up one layer before it asks for the next.
        """
        cache = self.new_cache()
        for index, layer in enumerate(layers):
            cache.append(index, self.rotate(layer), layer.values, layer.weights, reserve)
        return cache

    def load_rows(
        self,
        layers: Iterable[LayerKV],
        rows: Sequence[Tensor],
        reserve: int = 0,
        buffers: Buffers | None = None,
    ) -> BufferCache:
        """A cache of several rows, each of which holds some of the KVs given; all of them are rotated once.

        Uses up one layer before it asks for the next.

        Args:
            layers: what any row holds.
            rows: of each layer, `(B, T)` indices of the KVs that each row holds; -1 = a KV of weight 0, which nothing
                attends to, so that rows are equally long.
            reserve: space for that many more tokens.
            buffers: of a cache that is done with; None makes new ones.
        """
        cache, buffers = self.new_cache(), buffers or Buffers()
        for index, (layer, chosen) in enumerate(zip(layers, rows, strict=True)):
            at = chosen.to(layer.device)
            # The KVs that are still to come are indexed too, so that the buffer is filled by one copy.
            taken = functional.pad(at.clamp(min=0), (0, reserve))
            filled: list[Tensor] = []
            for number, vectors in enumerate((self.rotate(layer)[0], layer.values[0])):
                shape = vectors.shape[0], taken.numel(), vectors.shape[2]
                buffer = buffers.take(2 * index + number, shape, vectors)
                torch.index_select(vectors, 1, taken.flatten(), out=buffer)
                filled.append(buffer.unflatten(1, taken.shape).transpose(0, 1))
            weights = layer.weights[:, at].transpose(0, 1) * (at >= 0)[:, None]
            cache.fill(index, filled[0], filled[1], weights)
        return cache

    def new_cache(self, reserve: int = 0) -> BufferCache:
        """An empty cache for this model, with space for `reserve` tokens."""
        return BufferCache(self.shape.layers, reserve)
