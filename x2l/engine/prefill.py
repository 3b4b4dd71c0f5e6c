"""Chunked pre-fill: one pass over the video that emits the KVs of every level.

The official code runs one full pass for each level; `context="own"` does the same and is kept as the reference, and
summary tokens know no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from x2l.compressors.base import Compressor, Level
from x2l.compressors.summary_tokens import Summariser
from x2l.engine.attended_keys import AttendedKeys
from x2l.engine.compressing_pass import CompressingPass
from x2l.engine.context_length import check_video
from x2l.engine.host_copy import copies_done
from x2l.engine.kv_store import POSITIONS, KVStore, nothing_of
from x2l.engine.meter import Meter
from x2l.engine.prefill_pass import PassPlan, PrefillPass
from x2l.engine.shown_chunks import ShownChunk, shown_chunks
from x2l.engine.summarising_pass import SummarisingPass
from x2l.models.interface import VideoModel
from x2l.models.positions import compact_end
from x2l.models.prompt import Prompt


def check_prefill(
    levels: Mapping[str, Level],
    context: str,
    positions: str,
    indexes: Sequence[AttendedKeys] = (),
) -> None:
    """Checks settings before anything is loaded or run.

    Raises:
        ValueError: an unknown context or positions rule, or a rule or an index that does not fit a level.
    """
    if positions not in POSITIONS:
        raise ValueError(f"prefill.positions={positions!r}: must be one of {POSITIONS}")
    if context not in ("full", "own", *levels):
        raise ValueError(
            f"prefill.context={context!r}: must be full, own, or one of the levels, {list(levels)}"
        )
    if context not in ("full", "own", *_kept(levels)):
        raise ValueError(
            f"prefill.context={context!r}: chunks are dropped at this level; use full, own or one of "
            f"{list(_kept(levels))}"
        )
    uneven = [name for name, level in levels.items() if not level.even]
    if positions == "compact" and uneven:
        raise ValueError(
            f"prefill.positions='compact': levels {uneven} keep different numbers of KVs in layers or heads, which "
            f"cannot be numbered alike without gaps; use prefill.positions=keep, or even budgets"
        )
    of_summaries = [name for name, level in _kept(levels).items() if _summarises(level)]
    if of_summaries and (context, positions) != ("own", "compact"):
        raise ValueError(
            f"prefill.context={context!r} prefill.positions={positions!r}: must be own and compact where levels "
            f"{of_summaries} are of summary tokens, which the model was trained with so; use prefill=paper"
        )

    if of_summaries and indexes:
        raise ValueError(
            f"levels {of_summaries} are of summary tokens, beside which a pre-fill writes no keys of chunks; use "
            "another selector than mem_index, or another compressor"
        )


def _summarises(level: Level) -> bool:
    return isinstance(level.compressor, Summariser)


def check_budgets(levels: Mapping[str, Level], prompt: Prompt, model: VideoModel) -> None:
    """Asks every method whether it fits the model and every chunk at its ratio, before anything is run.

    Raises:
        ValueError: a window, a sink or a group does not fit, or the model has no summary tokens; names method, field,
            value, rule and remedy.
    """
    shape, chunks = model.shape, [chunk.visual_tokens for chunk in prompt.chunks]
    for name, level in _kept(levels).items():
        method = level.compressor
        if _summarises(level) and not model.has_summary_tokens:
            raise ValueError(
                f"levels.{name}.compressor={method.name}: the model has no weights for summary tokens; use "
                "model=video_xl_7b, or another compressor"
            )
        kept = level.counts(chunks, shape.layers)
        if isinstance(method, Compressor):
            pairs = zip(chunks, kept, strict=True)
            for tokens, keep in sorted({(of, keep) for of, keeps in pairs for keep in keeps}):
                if keep < tokens:
                    method.check(tokens, keep)
        if level.codec is not None:
            most = max(method.counts(chunks, level.ratio))
            level.codec.check(shape.kv_heads, most, shape.head_dim, shape.kv_itemsize)


def prefill(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    context: str = "full",
    positions: str = "keep",
    meter: Meter | None = None,
    video_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    indexes: Sequence[AttendedKeys] = (),
    shown: Iterator[ShownChunk] | None = None,
) -> KVStore:
    """Pre-fills a video chunk by chunk and compresses each chunk's KVs to every level.

    Args:
        model: the model.
        prompt: from `model.prompt`.
        levels: name -> compressor and ratio, finest first; the last one stays on the compute device.
        context: what later chunks attend to in place of earlier ones: their raw KVs (`full`), a level's KVs (its
            name), or `own`: one decoder pass a level, each seeing its own KVs (the paper, and the
            official code); chunks are embedded once all the same.
        positions: `keep` or `compact` (see `models/positions.py`), for the context here and for `KVStore.mix` later.
        meter: counts stages vision, prefill and compression.
        video_seed: for compressors that draw at random.
        progress: called with (chunks done, chunks in all) after each chunk.
        indexes: keys of every chunk to keep beside its levels; with `own` they are those of the finest level's pass.
            Stage `retrieval` times them.
        shown: the chunks as they are decoded and prepared; None = here, one after another.

    Raises:
        ValueError: settings that cannot work.
        ContextError: the video is longer than the model's context (a ValueError).
        RuntimeError: a compressor kept another number of KVs than it was told.
        VideoError: a picture cannot be decoded.
    """
    check_prefill(levels, context, positions, indexes)
    check_budgets(levels, prompt, model)
    meter = meter or Meter(model.device)
    contexts, coarsest = _contexts(levels, context), tuple(levels)[-1]
    check_length(model, prompt, levels, context, positions)
    passes: list[PrefillPass] = []
    for name, of_pass in contexts.items():
        capacity = _capacity(prompt, of_pass.get(name), model.shape.layers)
        capacity += _probe_tokens(model, of_pass)
        to_write = () if passes else tuple(indexes)
        plan = PassPlan(of_pass, name, positions, capacity, coarsest, video_seed, to_write)
        summarised = any(map(_summarises, of_pass.values()))
        kind = SummarisingPass if summarised else CompressingPass
        passes.append(kind(model, prompt, plan, meter))
    embeds, owner = [], []
    for one in shown_chunks(model, prompt) if shown is None else shown:
        chunk = one.chunk
        with meter.stage("vision"):  # once, however many passes there are
            embedded = model.embed_chunk(prompt, chunk, one.inputs)
        meter.add("vision", embedded.flops)
        visual = embedded.embeds[0, chunk.is_visual.to(embedded.embeds.device)]
        steps = visual.float().split(chunk.steps)
        embeds += [step.mean(dim=0, keepdim=True).cpu() for step in steps]
        owner += [chunk.index] * len(steps)
        for decoder_pass in passes:
            decoder_pass.prefill_chunk(chunk, embedded)
        if progress is not None:
            progress(chunk.index + 1, len(prompt.chunks))
    with meter.stage("compression"):
        copies_done()
    stored = {name: tuple(kvs) for of in passes for name, kvs in of.stored.items()}
    dropped = (nothing_of(passes[0].prefix),) * len(prompt.chunks)
    return KVStore(
        prompt=replace(prompt, visual={}),
        prefix=passes[0].prefix,
        levels={name: stored.get(name, dropped) for name in levels},
        positions=positions,
        step_embeds=torch.cat(embeds),
        step_chunk=tuple(owner),
        indexes={writer.index: writer.written() for writer in passes[0].writers},
    )


def _kept(levels: Mapping[str, Level]) -> dict[str, Level]:
    """Levels that keep KVs; nothing is computed for others."""
    return {name: level for name, level in levels.items() if not level.dropped}


def _contexts(levels: Mapping[str, Level], context: str) -> dict[str, dict[str, Level]]:
    """What each pass leaves in sight -> the levels that it emits."""
    kept = _kept(levels)
    if context == "own":
        return {name: {name: level} for name, level in kept.items()}
    return {context: kept}


def check_length(
    model: VideoModel,
    prompt: Prompt,
    levels: Mapping[str, Level],
    context: str,
    positions: str,
) -> None:
    """Checks that every pass fits the model's context, probe texts included.

    Args:
        model: the model.
        prompt: the prompt.
        levels: by name, finest first.
        context: what later chunks attend to, see `prefill`.
        positions: `keep` or `compact`.

    Raises:
        ContextError: one does not.
    """
    layers, contexts, coarsest = model.shape.layers, _contexts(levels, context), tuple(levels)[-1]
    methods = [level.compressor for of in contexts.values() for level in of.values()]
    more = max(_probe_tokens(model, of) for of in contexts.values())
    attended = max(_capacity(prompt, of.get(name), layers) for name, of in contexts.items())
    end = int(prompt.positions.max()) + 1
    if positions == "compact" and "full" not in contexts:
        end = max(
            compact_end(prompt, _left(prompt, of[name], layers), _inserted(prompt, of[name]))
            for name, of in contexts.items()
        )
    in_sight = (
        f"keep only compressed KVs in sight: prefill.context={coarsest} prefill.positions=compact"
    )
    if any(isinstance(method, Summariser) for method in methods):
        in_sight = f"use a higher ratio, of level {next(iter(contexts))} first"
    check_video(model.shape.context_length, prompt.tokens, attended + more, end + more, in_sight)


def _probe_tokens(model: VideoModel, levels: Mapping[str, Level]) -> int:
    """Tokens of the longest text that a pass runs behind a chunk."""
    methods = (level.compressor for level in levels.values())
    texts = [method.probe for method in methods if "probe" in method.needs]
    return max((len(model.question(text).input_ids) for text in texts), default=0)


def _capacity(prompt: Prompt, level: Level | None, layers: int) -> int:
    """The most KVs that a layer of a pass has in its context at any time, so that no buffer ever has to be doubled.

    Where heads keep different numbers it is that of equal heads, since what the longest keeps is not known before.

    Args:
        prompt: the prompt.
        level: what earlier chunks are compressed to; None = they stay whole.
        layers: of the model.
    """
    if level is None:
        return prompt.tokens
    before, most = prompt.prefix, prompt.prefix
    of_chunks = zip(
        prompt.chunks, _inserted(prompt, level), _left(prompt, level, layers), strict=True
    )
    for chunk, inserted, left in of_chunks:
        most = max(most, before + chunk.tokens + inserted)
        before += left
    return most


def _left(prompt: Prompt, level: Level, layers: int) -> list[int]:
    """KVs of each chunk that a level leaves in the layer that keeps most, text included."""
    kept = level.counts([chunk.visual_tokens for chunk in prompt.chunks], layers)
    return [
        chunk.tokens - chunk.visual_tokens + max(keeps)
        for chunk, keeps in zip(prompt.chunks, kept, strict=True)
    ]


def _inserted(prompt: Prompt, level: Level) -> list[int]:
    """Summary tokens of each chunk."""
    chunks = [chunk.visual_tokens for chunk in prompt.chunks]
    return (
        list(level.compressor.counts(chunks, level.ratio))
        if _summarises(level)
        else [0] * len(chunks)
    )
