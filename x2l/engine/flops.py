"""Compute in closed form: FLOPs and bytes. `meter.py` measures; the two are kept apart, and shown side by side.

FLOPs are those of matrix products, 2 per multiply-add, as torch's own counter counts them: attention is counted over
the whole query x key rectangle, because that is what runs under a mask; norms, rotary positions and softmax are left
out. Compression is what each compressor declares. Tests hold every formula against torch's counter. Vision towers
differ too much for formulas: the adapter runs torch's counter on the first chunk of each shape.
"""

from __future__ import annotations

from x2l.models.interface import ModelShape


def decoder_flops(shape: ModelShape, tokens: int, keys: int) -> int:
    """Running `tokens` new tokens through the decoder, each layer attending over `keys` KVs (the new ones included)."""
    width = shape.heads * shape.head_dim
    projections = 2 * tokens * shape.hidden * (width + 2 * shape.kv_heads * shape.head_dim)
    attention = 4 * tokens * keys * width + 2 * tokens * width * shape.hidden
    mlps = 2 * tokens * sum(shape.mlp_weights)
    return shape.layers * (projections + attention) + mlps


def head_flops(shape: ModelShape, tokens: int = 1) -> int:
    """Logits of `tokens` tokens."""
    return 2 * tokens * shape.hidden * shape.vocabulary


def kv_bytes(shape: ModelShape, tokens: int) -> int:
    """Keys and values of `tokens` tokens in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * shape.kv_itemsize


def question_flops(shape: ModelShape, cached: int, tokens: int) -> int:
    """Running a question of `tokens` tokens over `cached` KVs in each layer, the first logits included."""
    return decoder_flops(shape, tokens, cached + tokens) + head_flops(shape)


def answer_flops(shape: ModelShape, cached: int, question: int, generated: int) -> int:
    """Operations of running a question over cached KVs and writing an answer.

    Args:
        shape: of the model.
        cached: KVs in each layer before the question.
        question: tokens of the question.
        generated: tokens of the answer, the end token included.
    """
    before = cached + question
    steps = (decoder_flops(shape, 1, before + step) for step in range(1, generated))
    return (
        question_flops(shape, cached, question) + sum(steps) + (generated - 1) * head_flops(shape)
    )
