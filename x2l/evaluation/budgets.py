"""What the method's mixed cache will take, known from the prompt alone, before the pre-fill."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from x2l.compressors.base import Level
from x2l.engine.assignment import by_bytes, by_rank
from x2l.engine.flops import answer_flops, kv_bytes, prefill_flops
from x2l.engine.top_k import budget_of, counts_of, is_budget
from x2l.kv import LayerKV
from x2l.models.interface import VideoModel
from x2l.models.prompt import Chunk, Prompt


def check_budget(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    top_k: int | str,
    pinned: Sequence[str],
) -> None:
    """Checks before the pre-fill that a budget has room for what every mixed cache holds.

    Raises:
        ValueError: it has not.
    """
    if not is_budget(top_k):
        return
    full, least = (
        kv_bytes(model.shape, prompt.tokens),
        budget_bytes(model, prompt, levels, 0, pinned),
    )
    coarsest = tuple(levels)[-1]
    if budget_of(top_k, full) < least:
        raise ValueError(
            f"top_k={top_k}: must be at least {math.ceil(1000 * least / full) / 10:.1f}% ({least:,} bytes), what the "
            f"video takes with every chunk that is not pinned at the level {coarsest}; raise it, or "
            f"levels.{coarsest}.ratio"
        )


def budget_tokens(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    top_k: int | str,
    pinned: Sequence[str],
) -> int:
    """KVs per layer of the mixed cache that the method decodes from, text before the video included.

    Which chunks are re-loaded matters only for the last, shorter one, which counts as not re-loaded unless it is
    pinned or all are; and for a budget over more than two levels, by less than one step between levels.

    Args:
        model: tells the sizes.
        prompt: of all frames.
        levels: by name, finest first.
        top_k: chunks re-loaded, a ladder or a budget.
        pinned: on top of top_k.
    """
    layers, tokens = model.shape.layers, prompt.prefix
    for chunk, level, keeps in assigned_by_count(model, prompt, levels, top_k, pinned):
        if not level.dropped:
            tokens += chunk.tokens - chunk.visual_tokens + sum(keeps) // layers
    return tokens


def budget_bytes(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    top_k: int | str,
    pinned: Sequence[str],
) -> int:
    """Bytes of that mixed cache, as they are stored: a level with a codec takes fewer for as many KVs.

    Args:
        model: tells the sizes.
        prompt: of all frames.
        levels: by name, finest first.
        top_k: chunks re-loaded, a ladder or a budget, of which no more counts than whole chunks can spend.
        pinned: on top of top_k.
    """
    text = prompt.prefix
    visual = Counter[tuple[Level, tuple[int, ...]]]()
    for chunk, level, keeps in assigned_by_count(model, prompt, levels, top_k, pinned):
        if not level.dropped:
            text += chunk.tokens - chunk.visual_tokens
            visual[level, keeps] += 1
    stored = sum(_stored(model, *kind) * times for kind, times in visual.items())
    return kv_bytes(model.shape, text) + stored


def budget_flops(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    context: str,
    top_k: int | str,
    pinned: Sequence[str],
    vision: float,
    question: int,
    generated: int,
) -> int:
    """FLOPs of a lone question: vision, pre-fill, compression, decoding what a codec stored, and the answer.

    Selection is left out, as it is the selector's. Ratio 1 at every level, context `full`, is the model without x2l.

    Args:
        model: tells the sizes.
        prompt: of the frames.
        levels: by name, finest first.
        context: what later chunks attend to.
        top_k: chunks re-loaded, a ladder or a budget.
        pinned: on top of top_k.
        vision: of the vision tower, for each visual token.
        question: tokens of the question.
        generated: tokens of the answer.
    """
    shape, decoding = model.shape, 0
    for _, level, keeps in assigned_by_count(model, prompt, levels, top_k, pinned):
        if level.codec is not None and not level.dropped:
            for keep in keeps:
                decoding += level.codec.flops(shape.kv_heads, keep, shape.head_dim)
    seen = sum(chunk.visual_tokens for chunk in prompt.chunks)
    cached = budget_tokens(model, prompt, levels, top_k, pinned)
    before = round(vision * seen) + prefill_flops(model, prompt, levels, context)
    return before + decoding + answer_flops(shape, cached, question, generated)


def level_bytes(model: VideoModel, prompt: Prompt, level: Level) -> int:
    """Bytes of every chunk at one level, text between its tokens included; as they are stored."""
    if level.dropped:
        return 0
    chunks = prompt.chunks
    kept = level.counts([chunk.visual_tokens for chunk in chunks], model.shape.layers)
    text = sum(chunk.tokens - chunk.visual_tokens for chunk in chunks)
    sizes = (_stored(model, level, keeps) * n for keeps, n in Counter(kept).items())
    return kv_bytes(model.shape, text) + sum(sizes)


def assigned_by_count(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    top_k: int | str,
    pinned: Sequence[str],
) -> list[tuple[Chunk, Level, tuple[int, ...]]]:
    """Every chunk, its level, and the visual KVs that each layer keeps of it there.

    Which chunks are re-loaded is not known yet: the first ones are, but the last, which may be shorter.
    """
    chunks, names = prompt.chunks, tuple(levels)
    order = -torch.arange(len(chunks), dtype=torch.float32)
    visual = [chunk.visual_tokens for chunk in chunks]
    kept = {name: level.counts(visual, model.shape.layers) for name, level in levels.items()}
    if is_budget(top_k):
        sizes = {
            (name, keeps): _stored(model, levels[name], keeps)
            for name in names
            for keeps in {*kept[name]}
        }
        text = [kv_bytes(model.shape, chunk.tokens - chunk.visual_tokens) for chunk in chunks]
        nbytes = {
            name: [
                0 if levels[name].dropped else sizes[name, keeps] + of_text
                for keeps, of_text in zip(kept[name], text, strict=True)
            ]
            for name in names
        }
        full = kv_bytes(model.shape, prompt.tokens)
        left = budget_of(top_k, full) - kv_bytes(model.shape, prompt.prefix)
        assignment = by_bytes(order, nbytes, left, names, pinned)
    else:
        assignment = by_rank(order, counts_of(top_k, names), names, pinned)
    return [
        (chunk, levels[name], kept[name][chunk.index])
        for chunk, name in zip(chunks, assignment, strict=True)
    ]


def _stored(model: VideoModel, level: Level, keeps: tuple[int, ...]) -> int:
    """Bytes of a chunk's visual KVs at a level, all layers; a codec is asked by encoding as many zeros."""
    shape = model.shape
    if level.codec is None:
        return kv_bytes(shape, sum(keeps)) // shape.layers
    size = 0
    for keep, times in Counter(keeps).items():
        zeros = torch.zeros(1, shape.kv_heads, keep, shape.head_dim, dtype=model.dtype)
        layer = LayerKV(zeros, zeros, torch.zeros(model.axes, 1, keep), torch.ones(1, keep))
        size += times * level.codec.encode(layer).nbytes
    return size
