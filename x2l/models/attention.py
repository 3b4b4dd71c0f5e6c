"""One attention function for the language model: a stock kernel's arithmetic, plus what compression needs.

It adds a bias per KV (the log of how many tokens a merged KV stands for), copes with layers of different length,
and shows queries and keys to an `AttentionCapture`. What it should do is said by a `with`, never stored on a model.

Registered under its name for masks too: a name unknown to Hugging Face's mask registry gets no mask, and sdpa then
cuts the keys to the first `q_len` of them, silently (facts measured on every architecture tried).

No mask is made where attention is plainly causal; it then means lower-right causal: the last query sees every key.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "x2l_sdpa"
Kernel = Literal["eager", "masked", "flash", "plain", "fused", "split"]


@dataclass(frozen=True)
class AttentionCapture:
    """Collects what attention saw, by layer index.

    Attributes:
        queries: `(1, Q, T_new, D)`, rotated.
        keys: `(1, H, T_all, D)`, rotated, the cache included.
        scaling: the factor on query-key products.
        want_keys: whether keys are collected as well.
        last: the last layer captured. The forward ends before that layer attends: later layers do not run, and what it
            would return is not there. None: all layers, to the end.
    """

    want_keys: bool = False
    last: int | None = None
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    scaling: dict[int, float] = field(default_factory=dict)


class CapturedEnough(Exception):  # noqa: N818 - not an error: it ends a forward whose rest nobody asked for
    """The queries of the last layer captured are known."""


@dataclass(frozen=True)
class _Scope:
    """What one `with attending(...)` says. `masks` holds the last mask made, for the layers of equal length."""

    capture: AttentionCapture | None = None
    bias: Sequence[Tensor | None] | None = None
    masks: dict[tuple[int, int, torch.device], Tensor] = field(default_factory=dict)


_scope: ContextVar[_Scope | None] = ContextVar("x2l_attention_scope", default=None)


@contextmanager
def attending(
    capture: AttentionCapture | None = None, bias: Sequence[Tensor | None] | None = None
) -> Iterator[None]:
    """Says what attention does inside the block.

    Args:
        capture: collects queries (and keys), or None.
        bias: per layer `(h, T_cached)` or `(B, h, T_cached)` float added to the logits of the cached KVs, h in (1, H);
            None = no bias.
    """
    token = _scope.set(_Scope(capture, bias))
    try:
        yield
    finally:
        _scope.reset(token)


def kernel_for(
    base: str, queries: int, keys: int, explicit: bool, device: str, fusible: bool
) -> Kernel:
    """Which arithmetic a call of attention gets. Pure.

    Args:
        base: the attention that the checkpoint was loaded with: `sdpa`, `eager`, or one with `flash` in its name.
        queries: new tokens.
        keys: all tokens, the new ones included.
        explicit: something has to be added to the logits: a bias, or a mask that is not plainly causal.
        device: type of the tensors' device.
        fusible: torch's flash kernel for GPUs takes the tensors.

    Returns:
        `eager`: the model's own eager function, always with a mask. `masked`: sdpa with a mask. `flash`: the flash
        attention loaded, which takes neither mask nor bias and is lower-right aligned. `plain`: sdpa without a mask.
        `fused`: torch's flash kernel, lower-right aligned; `split`: cached and new keys apart, joined afterwards;
        both make nothing of size queries x keys.
    """
    if base == "eager":
        return "eager"
    if explicit:
        return "masked"
    if "flash" in base:
        return "flash"
    if queries in (1, keys):  # lower right is upper left, or everything
        return "plain"
    if fusible:
        return "fused"
    return "split" if device == "cpu" else "masked"


def lower_right_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """`(1, 1, queries, keys)` bool: the last query sees every key, each earlier one sees one fewer."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=keys - queries)[None, None]


def _shared_mask(scope: _Scope, queries: int, keys: int, device: torch.device) -> Tensor:
    key = (queries, keys, device)
    if key not in scope.masks:
        scope.masks.clear()
        scope.masks[key] = lower_right_mask(queries, keys, device)
    return scope.masks[key]


def _as_logits(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as something to add: 0 where a query sees a key, -inf elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, float("-inf")
    )


def _biased(mask: Tensor, bias: Tensor, query: Tensor, keys: int) -> Tensor:
    """The mask as float logits plus the bias, `(1 or B, 1 or Q, q, keys)`; keys beyond it (the new ones) get none."""
    padded = torch.zeros(*bias.shape[:-1], keys, dtype=query.dtype, device=query.device)
    padded[..., : bias.shape[-1]] = bias.to(query)
    if bias.shape[-2] > 1:
        padded = padded.repeat_interleave(query.shape[1] // bias.shape[-2], dim=-2)
    return _as_logits(mask, query.dtype) + padded[..., None, :]


def _flash(base: str, module: nn.Module, qkv: tuple[Tensor, Tensor, Tensor], options: Any) -> Any:
    """The loaded flash attention, lower-right causal.

    Hugging Face's function finds its kernel by the name in the module's config, where ours stands, hence the stand-in.
    And it takes positions that do not rise by one (M-RoPE, gaps) for sequences packed into one: they are not passed.
    """
    named = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation=base),
        is_causal=True,
        layer_idx=module.layer_idx,
    )
    options = {name: value for name, value in options.items() if name != "position_ids"}
    return ALL_ATTENTION_FUNCTIONS[base](named, *qkv, None, **options)


def _fused(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Torch's flash kernel, lower-right causal and grouped, `(1, Q, q, D)`."""
    mask = causal_lower_right(query.shape[2], key.shape[2])
    return nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )


def _split(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """The CPU's flash kernel on cached keys, all seen, and on new ones, square and causal, `(1, Q, q, D)`.

    The two softmaxes are joined by the logarithms of their sums, which the kernel returns as well.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    cached = key.shape[2] - query.shape[2]
    out_old, log_old = flash(query, key[:, :, :cached], value[:, :, :cached], scale=scaling)
    out_new, log_new = flash(
        query, key[:, :, cached:], value[:, :, cached:], is_causal=True, scale=scaling
    )
    share = torch.sigmoid(log_old - log_new)[..., None]
    return (out_old * share + out_new * (1 - share)).to(query.dtype)


def _can_fuse(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch's flash kernel takes these tensors (CUDA, half precision, head size)."""
    if query.device.type != "cuda":
        return False
    return can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, False, True))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    base: str = "sdpa",
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Hugging Face's attention interface: `(B, Q, q, D)`, `(B, H, k, D)`, `(B, H, k, D)` -> `(B, q, Q, D)`.

    Raises:
        ValueError: a mask that was made for another number of keys.
        CapturedEnough: this is the last layer captured.
    """
    scope = _scope.get() or _Scope()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    queries, keys = query.shape[2], key.shape[2]
    if attention_mask is not None and attention_mask.shape[-1] != keys:
        raise ValueError(
            f"attention_mask: is for {attention_mask.shape[-1]} keys, layer {layer} holds {keys}; "
            "layers may differ in length only under plain causal attention, so pass no mask"
        )
    if scope.capture is not None:
        scope.capture.queries[layer] = query
        scope.capture.scaling[layer] = float(options.get("scaling") or query.shape[-1] ** -0.5)
        if scope.capture.want_keys:
            scope.capture.keys[layer] = key
        if layer == scope.capture.last:
            raise CapturedEnough
    bias = None if scope.bias is None else scope.bias[layer]
    explicit = bias is not None or attention_mask is not None
    kernel = kernel_for(
        base, queries, keys, explicit, query.device.type, _can_fuse(query, key, value)
    )
    if kernel == "flash":
        return _flash(base, module, (query, key, value), options)
    if kernel in ("fused", "split"):
        run = _fused if kernel == "fused" else _split
        out = run(query, key, value, options.get("scaling"))
        return out.transpose(1, 2).contiguous(), None
    mask = attention_mask
    if kernel != "plain" and mask is None:
        mask = _shared_mask(scope, queries, keys, query.device)
    if bias is not None and mask is not None:
        mask = _biased(mask, bias, query, keys)
    if kernel == "eager":
        assert mask is not None
        eager = sys.modules[type(module).__module__].eager_attention_forward
        return eager(module, query, key, value, _as_logits(mask, query.dtype), **options)
    if kernel == "masked" and query.device.type == "cpu":
        # Hugging Face repeats KVs for every query head where there is a mask; the CPU's kernel needs no copies.
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=options.get("scaling"), enable_gqa=True
        )
        return out.transpose(1, 2).contiguous(), None
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)


def plain_or_explicit(*args: Any, **options: Any) -> Tensor | None:
    """Hugging Face's mask interface: None where attention is plainly causal, else a mask in full."""
    plainly = options.get("mask_function", causal_mask_function) is causal_mask_function
    if plainly and options.get("attention_mask") is None:
        return None
    skip = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(*args, **(options | skip))


def register(base: str = "sdpa") -> str:
    """Makes the function known to transformers (idempotent) and returns its name.

    Args:
        base: the attention to compute with: `sdpa`, `eager`, `flash_attention_2`, or a kernel of the Hub. A name
            returned by `register` is returned as it is.
    """
    if base.startswith("x2l_"):
        return base
    # Without "flash": transformers looks for a kernel of that name. Without "/": for a repository.
    name = "x2l_" + base.replace("flash", "fa").replace("/", ".")
    AttentionInterface.register(name, partial(attend, base=base))
    AttentionMaskInterface.register(name, plain_or_explicit)
    return name
