"""What a job will take, from closed forms alone: nothing is pre-filled, no weight is read.

FLOPs of pre-fill, compression and answers are those that a run would record, at the longest answer; those of the vision
tower are an estimate (two operations a weight and patch), those of selectors are not known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from x2l.compressors.base import Level
from x2l.engine.context_length import check_question
from x2l.engine.flops import answer_flops, compression_flops, kv_bytes, prefill_flops
from x2l.engine.prefill import check_budgets, check_length
from x2l.engine.top_k import GT, TASK
from x2l.evaluation.budgets import budget_bytes, budget_tokens, check_budget, level_bytes
from x2l.evaluation.conditions import Cell
from x2l.evaluation.settings import Settings
from x2l.frames import Frames
from x2l.models.huggingface import HFVideoModel
from x2l.models.prompt import Prompt

RECORD_BYTES = 3000  # of a record, about


@dataclass(frozen=True)
class Film:
    """What of a video its cost follows from.

    Attributes:
        seconds: its length.
        height, width: of its pictures.
    """

    seconds: float
    height: int
    width: int


@dataclass(frozen=True)
class VideoCost:
    """One video of a job, and one question about it for every cell.

    Attributes:
        frames, tokens: sampled; of the whole prompt.
        flops: vision, prefill, compression: once. decode: of one question, all cells, at the longest answer.
        resident_bytes: KVs that the largest mixed cache holds.
        stored_bytes: KVs of all levels, as host or disk keep them.
        device_bytes: at least that much on the device at a time: weights, and the KVs of pre-fill or answer.
        refusals: why it cannot work, a line each.
    """

    frames: int
    tokens: int
    flops: Mapping[str, int]
    resident_bytes: int
    stored_bytes: int
    device_bytes: int
    refusals: tuple[str, ...]


def sampled(film: Film, settings: Settings) -> int:
    """How many frames are sampled of a video, see `read_frames`."""
    counts = [] if settings.frames is None else [settings.frames]
    if settings.fps is not None:
        counts.append(int(film.seconds * settings.fps - 1e-3) + 1)
    return max(1, min(counts))


def outlined(film: Film, settings: Settings) -> Frames:
    """Frames of a video's size, black and white in turn, so that no processor drops one for being like the last."""
    count = sampled(film, settings)
    colours = torch.tensor([0, 255], dtype=torch.uint8).repeat(-(-count // 2))[:count]
    pixels = colours[:, None, None, None].expand(count, film.height, film.width, 3)
    seconds = torch.arange(count, dtype=torch.float64) * film.seconds / count
    return Frames(pixels, seconds, count / film.seconds, film.seconds, "video", settings.reader)


def video_cost(
    model: HFVideoModel,
    film: Film,
    question: str,
    levels: Mapping[str, Level],
    cells: Sequence[Cell],
    settings: Settings,
) -> VideoCost:
    """What a video takes.

    Args:
        model: without weights, from `loading.outline`.
        film: the video.
        question: a usual one, as the benchmark puts it.
        levels: by name, finest first.
        cells: of the job.
        settings: of the job.

    Raises:
        ValueError: chunks that are no whole time steps.
        VideoError: the model's processor refuses such frames.
    """
    frames = outlined(film, settings)
    prompt = model.prompt(frames, settings.chunk_frames)
    tokens, refusals = len(model.question(question).input_ids), list[str]()
    shape, chunks = model.shape, prompt.chunks
    compression = 0
    for level in levels.values():
        if not level.dropped:
            kept = level.counts([chunk.visual_tokens for chunk in chunks], shape.layers)
            for chunk, keeps in zip(chunks, kept, strict=True):
                compression += compression_flops(shape, level, chunk.visual_tokens, keeps)
    total = prefill_flops(model, prompt, levels, settings.context)
    decode, resident = 0, 0
    for cell in cells:
        top_k = _most(cell, len(chunks), levels, settings)
        cached = budget_tokens(model, prompt, levels, top_k, cell.condition.pinned)
        decode += answer_flops(shape, cached, tokens, settings.max_new_tokens)
        nbytes = budget_bytes(model, prompt, levels, top_k, cell.condition.pinned)
        resident = max(resident, nbytes)
        pinned, most = cell.condition.pinned, settings.max_new_tokens
        refusals += _refused(check_budget, model, prompt, levels, top_k, pinned)
        refusals += _refused(check_question, shape.context_length, cached, 0, tokens, most)
    refusals += _refused(check_budgets, levels, prompt, model)
    rules = (settings.context, settings.positions)
    refusals += _refused(check_length, model, prompt, levels, *rules)
    by_level = [level_bytes(model, prompt, level) for level in levels.values()]
    in_sight = kv_bytes(shape, prompt.tokens)
    if settings.context in levels:
        in_sight = level_bytes(model, prompt, levels[settings.context])
    elif settings.context == "own":
        in_sight = sum(by_level)
    weights = sum(parameter.nbytes for parameter in model.hf.parameters())
    return VideoCost(
        frames=len(frames.seconds),
        tokens=prompt.tokens,
        flops={
            "vision": vision_flops(model, prompt),
            "prefill": total - compression,
            "compression": compression,
            "decode": decode,
        },
        resident_bytes=resident,
        stored_bytes=sum(by_level) + kv_bytes(shape, prompt.prefix),
        device_bytes=weights + by_level[-1] + max(in_sight, resident),
        refusals=tuple(dict.fromkeys(refusals)),
    )


def vision_flops(model: HFVideoModel, prompt: Prompt) -> int:
    """About what vision tower and projector take: two operations a weight and patch; attention is left out."""
    first = prompt.chunks[0]
    (pixels,) = prompt.visual["frames"].blocks([model.looked_at(first)])
    inputs = model.visual_inputs(prompt, first, pixels)
    pictures = max((v for v in inputs.values() if isinstance(v, torch.Tensor)), key=torch.numel)
    patch = model.hf.config.vision_config.patch_size
    side = patch if isinstance(patch, int) else patch[0]
    patches = pictures.numel() / (3 * side**2 * model.temporal_patch)
    head = model.hf.get_output_embeddings()
    others = {id(p) for module in (model.decoder, head) for p in module.parameters()}
    weights = sum(p.numel() for p in model.hf.parameters() if id(p) not in others and p.dim() > 1)
    frames = prompt.chunks[-1].frames[1]
    return round(2 * weights * patches * frames / (first.frames[1] - first.frames[0]))


def _most(cell: Cell, chunks: int, levels: Mapping[str, Level], settings: Settings) -> int | str:
    """The top_k of a cell; the most chunks it may take where that depends on the question."""
    condition = cell.condition
    if condition.single_level is not None:
        return chunks if condition.single_level == next(iter(levels)) else 0
    if condition.top_k == TASK:
        return max(settings.top_k_by_task.values())
    return chunks if condition.top_k in (GT, None) else condition.top_k


def _refused(check: Callable[..., None], *arguments: Any) -> list[str]:
    try:
        check(*arguments)
    except ValueError as error:
        return [str(error)]
    return []
