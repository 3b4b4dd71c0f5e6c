"""Chunked pre-fill: one pass over the video that emits the KVs of every level.

The official code runs one full pass for each level; `context="own"` does the same and is kept as the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from x2l.compressors.base import CAN_SEE, Level, Observation, Sizes, kept_tokens
from x2l.compressors.stored_forms import Interleaved, Ragged, by_head, interleaved
from x2l.engine.context_length import check_video
from x2l.engine.flops import decoder_flops
from x2l.engine.host_copy import copies_done, to_host
from x2l.engine.kv_store import POSITIONS, KVStore, nothing_of
from x2l.engine.meter import Meter
from x2l.kv import KV, LayerKV, StoredKV, StoredLayer
from x2l.models.attention import AttentionCapture
from x2l.models.interface import Embedded, ModelShape, VideoModel
from x2l.models.positions import compact_end, compacted, first_cursor, furthest, shifted
from x2l.models.prompt import Chunk, Prompt


def check_prefill(levels: Mapping[str, Level], context: str, positions: str) -> None:
    """Checks settings before anything is loaded or run.

    Raises:
        ValueError: an unknown context or positions rule, or a rule that does not fit a level.
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


def check_budgets(levels: Mapping[str, Level], prompt: Prompt, shape: ModelShape) -> None:
    """Asks every method whether it fits every chunk at its ratio, before anything is run.

    Raises:
        ValueError: a window, a sink or a group does not fit; names method, field, value, rule and remedy.
    """
    chunks = sorted({chunk.visual_tokens for chunk in prompt.chunks})
    for level in _kept(levels).values():
        for tokens in chunks:
            for keep in sorted(set(level.keeps(tokens, shape.layers))):
                if keep < tokens:
                    level.compressor.check(tokens, keep)
        if level.codec is not None:
            most = kept_tokens(chunks[-1], level.ratio)
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

    Raises:
        ValueError: settings that cannot work.
        ContextError: the video is longer than the model's context (a ValueError).
        RuntimeError: a compressor kept another number of KVs than it was told.
    """
    check_prefill(levels, context, positions)
    check_budgets(levels, prompt, model.shape)
    meter = meter or Meter(model.device)
    kept = _kept(levels)
    contexts = {context: kept}
    if context == "own":
        contexts = {name: {name: level} for name, level in kept.items()}
    coarsest = tuple(levels)[-1]
    _check_length(model, prompt, contexts, positions, coarsest)
    passes = [
        _Pass(model, prompt, of_pass, name, positions, meter, video_seed, coarsest)
        for name, of_pass in contexts.items()
    ]
    embeds, owner = [], []
    for chunk in prompt.chunks:
        with meter.stage("vision"):
            embedded = model.embed_chunk(prompt, chunk)  # once, however many passes there are
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
    )


def _kept(levels: Mapping[str, Level]) -> dict[str, Level]:
    """Levels that keep KVs; nothing is computed for others."""
    return {name: level for name, level in levels.items() if not level.dropped}


def _check_length(
    model: VideoModel,
    prompt: Prompt,
    contexts: Mapping[str, Mapping[str, Level]],
    positions: str,
    coarsest: str,
) -> None:
    """Checks that every pass fits the model's context, probe texts included.

    Args:
        model: the model.
        prompt: the prompt.
        contexts: what each pass leaves in sight -> the levels that it emits.
        positions: `keep` or `compact`.
        coarsest: for the message.

    Raises:
        ContextError: one does not.
    """
    layers, levels = (
        model.shape.layers,
        [level for of in contexts.values() for level in of.values()],
    )
    probes = [level.compressor.probe for level in levels if "probe" in level.compressor.needs]
    probe_tokens = max((len(model.question(text).input_ids) for text in probes), default=0)
    attended = max(_capacity(prompt, of.get(name), layers) for name, of in contexts.items())
    end = int(prompt.positions.max()) + 1
    if positions == "compact" and "full" not in contexts:
        end = max(
            compact_end(prompt, _left(prompt, of[name], layers)) for name, of in contexts.items()
        )
    limit, more = model.shape.context_length, probe_tokens
    check_video(limit, prompt.tokens, attended + more, end + more, coarsest)


class _Pass:
    """One pass of the decoder over the chunks, with the context that it leaves. Lives for one call of `prefill`."""

    def __init__(
        self,
        model: VideoModel,
        prompt: Prompt,
        levels: Mapping[str, Level],
        context: str,
        positions: str,
        meter: Meter,
        video_seed: int,
        resident: str,
    ) -> None:
        self.model, self.prompt, self.levels, self.context = model, prompt, levels, context
        self.positions, self.meter, self.video_seed = positions, meter, video_seed
        self.resident = resident  # the level that stays on the compute device
        self.compressors = [level.compressor for level in levels.values()]
        self.needs = frozenset[str]().union(*(c.needs for c in self.compressors))
        if not self.needs <= CAN_SEE:
            raise ValueError(
                f"compressor needs {sorted(self.needs - CAN_SEE)}: the engine can show {sorted(CAN_SEE)}"
            )
        self.cache = model.new_cache(_capacity(prompt, levels.get(context), model.shape.layers))
        self.cursor = first_cursor(prompt)
        self.stored: dict[str, list[StoredKV]] = {name: [] for name in levels}
        before = prompt.positions[:, : prompt.prefix]
        with meter.stage("prefill"):
            text = model.embed_text(prompt.input_ids[: prompt.prefix])
            model.prefill_span(text, before, self.cache)
            self.prefix = self._raw((0,) * model.shape.layers, before, before)
        meter.add("prefill", decoder_flops(model.shape, prompt.prefix, prompt.prefix))

    def prefill_chunk(self, chunk: Chunk, embedded: Embedded) -> None:
        """Pre-fills one chunk, compresses it to every level, and leaves the context that later chunks attend to."""
        model, meter, cache = self.model, self.meter, self.cache
        before = cache.lengths
        compact = self.positions == "compact" and self.context != "full"
        used = shifted(self.prompt, chunk, self.cursor) if compact else chunk.positions
        capture = AttentionCapture() if "queries" in self.needs else None
        with meter.stage("prefill"):
            model.prefill_span(embedded, used, cache, capture)
            raw = self._raw(before, used, chunk.positions)
        keys = sum(cache.lengths) / len(before)
        meter.add("prefill", decoder_flops(model.shape, chunk.tokens, round(keys)))
        with meter.stage("compression"):
            probes = self._probe(used)
            levels = {
                name: self._compress(level, raw, chunk, used, capture, probes)
                for name, level in self.levels.items()
            }
            if self.context != "full":
                cache.cut(before)
                self._leave(levels[self.context].decode(), chunk, compact)
            for name, kv in levels.items():
                self.stored[name].append(kv if name == self.resident else to_host(kv))

    def _probe(self, used: Tensor) -> dict[str, AttentionCapture]:
        """Runs each probe text right behind the chunk, shows its queries, and forgets its KVs."""
        texts = {c.probe for c in self.compressors if "probe" in c.needs}
        model, before, probes = self.model, self.cache.lengths, {}
        for text in sorted(texts):
            ids, capture = model.question(text).input_ids, AttentionCapture()
            behind = torch.arange(len(ids)) + int(used.max()) + 1
            model.prefill_span(
                model.embed_text(ids), behind.expand(model.axes, -1), self.cache, capture
            )
            self.cache.cut(before)
            keys = round(sum(before) / len(before)) + len(ids)
            self.meter.add("compression", decoder_flops(model.shape, len(ids), keys))
            probes[text] = capture
        return probes

    def _leave(self, kv: KV, chunk: Chunk, compact: bool) -> None:
        """Puts a chunk's compressed KVs into the context."""
        ends = [self.cursor]
        for index, layer in enumerate(kv.layers):
            moved = layer.positions
            if compact:
                moved, after = compacted(self.prompt, chunk, layer.positions, self.cursor)
                ends.append(after)
            rotated = self.model.rotate(LayerKV(layer.keys, layer.values, moved, layer.weights))
            self.cache.append(index, rotated, layer.values, layer.weights)
        self.cursor = furthest(ends)

    def _raw(self, before: tuple[int, ...], used: Tensor, original: Tensor) -> KV:
        """The KVs that the last forward appended: un-rotated from the positions `used`, labelled with `original`."""
        layers = []
        for layer, start in zip(self.cache.layers, before, strict=True):
            keys, values = layer.tail(start)
            device = keys.device
            layers.append(
                LayerKV(
                    self.model.unrotate(keys, used.to(device)),
                    values.clone(),
                    original[:, None].to(device, torch.float32),
                    torch.ones(1, keys.shape[2], device=device),
                )
            )
        return KV(tuple(layers))

    def _compress(
        self,
        level: Level,
        raw: KV,
        chunk: Chunk,
        used: Tensor,
        capture: AttentionCapture | None,
        probes: Mapping[str, AttentionCapture],
    ) -> StoredKV:
        keeps = level.keeps(chunk.visual_tokens, len(raw.layers))
        if min(keeps) == chunk.visual_tokens and level.codec is None:
            return StoredKV(raw.layers)
        needs, probe = level.compressor.needs, probes.get(level.compressor.probe)
        layers = []
        for index, layer in enumerate(raw.layers):
            is_visual = chunk.is_visual.to(layer.keys.device)
            places = is_visual.nonzero()[:, 0]
            obs = Observation(
                layer=index,
                chunk=chunk.index,
                grid=chunk.grid,
                video_seed=self.video_seed,
                positions=used[:, chunk.is_visual].to(layer.keys.device),
                rope=self.model,
                scaling=self.model.scaling,
                queries=capture.queries[index][:, :, places]
                if capture and "queries" in needs
                else None,
                probe=probe.queries[index] if probe and "probe" in needs else None,
            )
            kept = visual = layer.take(places)
            if keeps[index] < visual.tokens:
                kept = level.compressor.compress(visual, obs, keeps[index])
                _check_kept(level, kept, keeps[index], obs, visual.tokens)
            text = None if bool(is_visual.all()) else layer.take((~is_visual).nonzero()[:, 0])
            layers.append(_stored(level, kept, text))
        probe_tokens = probe.queries[0].shape[2] if probe else 0
        self._count(level, chunk.visual_tokens, keeps, probe_tokens)
        return StoredKV(tuple(layers))

    def _count(self, level: Level, tokens: int, keeps: tuple[int, ...], probe_tokens: int) -> None:
        """Adds what compressing and encoding one chunk took."""
        shape = self.model.shape
        for keep, layers in Counter(keeps).items():
            sizes = Sizes(shape.kv_heads, shape.heads, tokens, keep, shape.head_dim, probe_tokens)
            flops = level.compressor.flops(sizes) if keep < tokens else 0
            if level.codec is not None:
                flops += level.codec.flops(shape.kv_heads, keep, shape.head_dim)
            self.meter.add("compression", layers * flops)


def _check_kept(level: Level, kept: LayerKV, keep: int, obs: Observation, tokens: int) -> None:
    """Checks that a compressor did as it was told.

    Raises:
        RuntimeError: it kept another number of KVs.
    """
    heads, count = kept.keys.shape[1], kept.kv_count
    if level.compressor.ragged:
        count = int((kept.weights > 0).expand(heads, -1).sum())
    if count != keep * heads:
        raise RuntimeError(
            f"compressor {level.compressor.name!r} returned {count / heads:g} KVs of {tokens} in chunk {obs.chunk}, "
            f"layer {obs.layer}; it was told to keep {keep} (ratio {level.ratio})"
        )


def _stored(level: Level, kept: LayerKV, text: LayerKV | None) -> StoredLayer:
    """One layer of a chunk in the level's form; text inside the chunk is never compressed, nor quantised."""
    encode = level.codec.encode if level.codec else LayerKV.decode
    uneven = level.compressor.ragged and bool((kept.weights == 0).any())
    if level.codec is None and not uneven:
        return kept if text is None else interleaved(text, kept)
    visual = Ragged(tuple(map(encode, by_head(kept)))) if uneven else encode(kept)
    return visual if text is None else Interleaved(text, visual)


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
    largest = max(chunk.tokens for chunk in prompt.chunks)
    return prompt.prefix + sum(_left(prompt, level, layers)) + largest


def _left(prompt: Prompt, level: Level, layers: int) -> list[int]:
    """KVs of each chunk that a level leaves in the layer that keeps most, text included."""
    return [
        chunk.tokens - chunk.visual_tokens + max(level.keeps(chunk.visual_tokens, layers))
        for chunk in prompt.chunks
    ]
