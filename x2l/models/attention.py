"""One attention function for the language model: sdpa's arithmetic, plus what compression needs.

It adds a bias per KV (the log of how many tokens a merged KV stands for), copes with layers of different length,
and shows queries and keys to whoever watches. What it should do is said by a `with`, never stored on a model.

Registered under its name for masks too: a name unknown to Hugging Face's mask registry gets no mask, and sdpa then
cuts the keys to the first `q_len` of them, silently (facts measured on every architecture tried).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "x2l_sdpa"


@dataclass(frozen=True)
class Watch:
    """Collects what attention saw, by layer index.

    Attributes:
        queries: `(1, Q, T_new, D)`, rotated.
        keys: `(1, H, T_all, D)`, rotated, the cache included.
        scaling: the factor on query-key products.
        want_keys: whether keys are collected as well.
    """

    want_keys: bool = False
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    scaling: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Scope:
    watch: Watch | None
    bias: Sequence[Tensor | None] | None


_scope: ContextVar[_Scope | None] = ContextVar("x2l_attention_scope", default=None)


@contextmanager
def attending(
    watch: Watch | None = None, bias: Sequence[Tensor | None] | None = None
) -> Iterator[None]:
    """Says what attention does inside the block.

    Args:
        watch: collects queries (and keys), or None.
        bias: per layer `(h, T_cached)` float added to the logits of the cached KVs, h in (1, H); None = no bias.
    """
    token = _scope.set(_Scope(watch, bias))
    try:
        yield
    finally:
        _scope.reset(token)


def lower_right_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """`(1, 1, queries, keys)` bool: the last query sees every key, each earlier one sees one fewer."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=keys - queries)[None, None]


def _biased(mask: Tensor | None, bias: Tensor, query: Tensor, keys: int) -> Tensor:
    """The mask as float logits plus the bias, `(1, Q, q, keys)`; keys beyond the bias (the new ones) get none."""
    queries, heads = query.shape[2], query.shape[1]
    allowed = lower_right_mask(queries, keys, query.device) if mask is None else mask
    if allowed.dtype == torch.bool:
        logits = torch.zeros(allowed.shape, dtype=query.dtype, device=query.device)
        logits = logits.masked_fill(~allowed, float("-inf"))
    else:
        logits = allowed
    padded = torch.zeros(bias.shape[0], keys, dtype=query.dtype, device=query.device)
    padded[:, : bias.shape[1]] = bias.to(query)
    per_head = padded.repeat_interleave(heads // bias.shape[0], dim=0)
    return logits + per_head[None, :, None, :]


def x2l_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Hugging Face's attention interface: `(1, Q, q, D)`, `(1, H, k, D)`, `(1, H, k, D)` -> `(1, q, Q, D)`."""
    scope = _scope.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    queries, keys = query.shape[2], key.shape[2]
    if (
        queries > 1
        and queries != keys
        and (attention_mask is None or attention_mask.shape[-1] != keys)
    ):
        # Hugging Face sizes one mask by the first layer; a layer that kept another number of KVs needs its own.
        attention_mask = lower_right_mask(queries, keys, query.device)
    if scope is not None and scope.watch is not None:
        scope.watch.queries[layer] = query
        scope.watch.scaling[layer] = float(kwargs.get("scaling") or query.shape[-1] ** -0.5)
        if scope.watch.want_keys:
            scope.watch.keys[layer] = key
    bias = None if scope is None or scope.bias is None else scope.bias[layer]
    if bias is not None:
        attention_mask = _biased(attention_mask, bias, query, keys)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)


def register() -> str:
    """Makes the function known to transformers (idempotent) and returns its name."""
    AttentionInterface.register(NAME, x2l_sdpa)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
