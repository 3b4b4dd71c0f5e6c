"""The sizes of a language model, from its text configuration alone."""

from __future__ import annotations

from typing import Any

from x2l.models.interface import ModelShape
from x2l.models.rotary import context_length


def model_shape(text: Any, kv_itemsize: int) -> ModelShape:
    """Sizes of a language model.

    Args:
        text: its configuration, of a type that families.py lists.
        kv_itemsize: bytes of a number in its KVs.
    """
    return ModelShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        mlp_weights=tuple(_mlp_weights(text, layer) for layer in range(text.num_hidden_layers)),
        vocabulary=text.vocab_size,
        kv_itemsize=kv_itemsize,
        context_length=context_length(text),
    )


def _mlp_weights(text: Any, layer: int) -> int:
    """Weights that one token meets between two attentions: all of a gated MLP, or router and active experts."""
    if not _has_experts(text, layer):
        return int(3 * text.hidden_size * text.intermediate_size)
    active = text.num_experts_per_tok + getattr(text, "n_shared_experts", 0)
    expert = 3 * text.moe_intermediate_size
    return int(text.hidden_size * (text.num_local_experts + active * expert))


def _has_experts(text: Any, layer: int) -> bool:
    """Some layers of a mixture are dense: the first ones (GLM-4.5V), or those that are named or lie between (Qwen3)."""
    if not getattr(text, "num_local_experts", 0):
        return False
    if hasattr(text, "first_k_dense_replace"):
        return bool(layer >= text.first_k_dense_replace)
    return layer not in text.mlp_only_layers and (layer + 1) % text.decoder_sparse_step == 0
