"""Compute in closed form: FLOPs and bytes. `meter.py` measures; the two are kept apart, and shown side by side.

FLOPs are those of matrix products, 2 per multiply-add, as torch's own counter counts them: attention is counted over
the whole query x key rectangle, because that is what runs under a mask; norms, rotary positions and softmax are left
out. Compression is what each compressor declares. Tests hold every formula against torch's counter. Vision towers
differ too much for formulas: the adapter runs torch's counter on the first chunk of each shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from x2l.compressors.base import Compressor, Level, Sizes
from x2l.compressors.summary_tokens import Summariser
from x2l.models.interface import ModelShape, VideoModel
from x2l.models.prompt import Prompt


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


def compression_flops(
    shape: ModelShape, level: Level, tokens: int, keeps: tuple[int, ...], probe_tokens: int = 0
) -> int:
    """Compressing one chunk to a level, and encoding what is kept.

    Args:
        shape: of the model.
        level: the level.
        tokens: the chunk's visual tokens.
        keeps: KVs that each layer keeps of them.
        probe_tokens: of the compressor's probe text, if it has one.
    """
    method, total = level.compressor, 0
    if min(keeps) == tokens and level.codec is None:
        return 0
    for keep, layers in Counter(keeps).items():
        sizes = Sizes(shape.kv_heads, shape.heads, tokens, keep, shape.head_dim, probe_tokens)
        if keep < tokens and isinstance(method, Compressor):
            total += layers * method.flops(sizes)
        if level.codec is not None:
            total += layers * level.codec.flops(shape.kv_heads, keep, shape.head_dim)
    return total


def prefill_flops(
    model: VideoModel, prompt: Prompt, levels: Mapping[str, Level], context: str
) -> int:
    """Decoder and compression of a pre-fill, known before it; heads that keep different numbers count as even.

    Args:
        model: tells the sizes.
        prompt: what would be pre-filled.
        levels: by name, finest first.
        context: what later chunks would attend to, see `engine.prefill.prefill`.
    """
    kept = {name: level for name, level in levels.items() if not level.dropped}
    passes = {context: kept}
    if context == "own":
        passes = {name: {name: level} for name, level in kept.items()}
    return sum(_pass_flops(model, prompt, levels, name) for name, levels in passes.items())


def _pass_flops(
    model: VideoModel, prompt: Prompt, levels: Mapping[str, Level], context: str
) -> int:
    shape, before = model.shape, [prompt.prefix] * model.shape.layers
    visual = [chunk.visual_tokens for chunk in prompt.chunks]
    counts = {name: level.counts(visual, shape.layers) for name, level in levels.items()}
    probing = {level.compressor for level in levels.values() if "probe" in level.compressor.needs}
    probes = {method.probe: len(model.question(method.probe).input_ids) for method in probing}
    total = decoder_flops(shape, prompt.prefix, prompt.prefix)
    for chunk in prompt.chunks:
        keeps = {name: of_chunks[chunk.index] for name, of_chunks in counts.items()}
        summaries = (
            isinstance(levels[context].compressor, Summariser) if context in levels else False
        )
        window = chunk.tokens + (keeps[context][0] if summaries else 0)
        during = [tokens + window for tokens in before]
        mean = round(sum(during) / shape.layers)
        total += decoder_flops(shape, window, mean)
        total += sum(decoder_flops(shape, count, mean + count) for count in probes.values())
        for name, level in levels.items():
            asked = probes[level.compressor.probe] if level.compressor in probing else 0
            total += compression_flops(shape, level, chunk.visual_tokens, keeps[name], asked)
        if context not in levels:
            before = during
        else:
            text = 0 if summaries else chunk.tokens - chunk.visual_tokens
            before = [tokens + text + n for tokens, n in zip(before, keeps[context], strict=True)]
    return total
