"""Chunked pre-fill: one pass over the video that emits the KVs of every level.

The official code runs one full pass for each level; `context="own"` does the same and is kept as the reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from x2l.chunks import Chunk, Prompt
from x2l.compressors.base import CAN_SEE, Level, Observation, kept_tokens
from x2l.compute import Meter, decoder_flops, vision_flops
from x2l.kv import KV, LayerKV, concat_layers
from x2l.models.attention import Watch
from x2l.models.base import Embedded, VideoModel
from x2l.models.cache import BufferCache
from x2l.models.positions import Cursor, compacted, first_cursor, shifted
from x2l.store import POSITIONS, KVStore

CONTEXTS = ("full", "low", "high", "own")
RESIDENT = frozenset(
    {"high"}
)  # levels that stay on the compute device; all others wait on the host


def check_prefill(levels: Mapping[str, Level], context: str, positions: str) -> None:
    """Checks settings before anything is loaded or run.

    Raises:
        ValueError: an unknown context or positions rule.
    """
    if positions not in POSITIONS:
        raise ValueError(f"prefill.positions={positions!r}: must be one of {POSITIONS}")
    if context not in CONTEXTS:
        raise ValueError(f"prefill.context={context!r}: must be one of {CONTEXTS}")
    if context not in ("full", "own") and context not in levels:
        raise ValueError(
            f"prefill.context={context!r}: there is no such level; levels are {sorted(levels)}"
        )


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
        levels: name -> compressor and ratio.
        context: what later chunks attend to in place of earlier ones: their raw KVs (`full`), a level's KVs (`low`,
            `high`), or `own`: one pass a level, each seeing its own (the paper, and the official code).
        positions: `keep` or `compact` (see `models/positions.py`), for the context here and for `KVStore.mix` later.
        meter: counts stages vision, prefill and compression.
        video_seed: for compressors that draw at random.
        progress: called with (chunks done, chunks in all) after each chunk.

    Raises:
        ValueError: settings that cannot work.
        RuntimeError: a compressor kept another number of KVs than it was told.
    """
    check_prefill(levels, context, positions)
    meter = meter or Meter(model.device)
    passes = (
        [(context, levels)]
        if context != "own"
        else [(name, {name: level}) for name, level in levels.items()]
    )
    done = itertools.count(1)

    def chunk_done() -> None:
        if progress is not None:
            progress(next(done), len(passes) * len(prompt.chunks))

    stores = [
        _Pass(model, prompt, emitted, seen, positions, meter, video_seed).run(chunk_done)
        for seen, emitted in passes
    ]
    merged = {name: kvs for store in stores for name, kvs in store.levels.items()}
    first = stores[0]
    return KVStore(
        first.prompt, first.prefix, merged, positions, first.step_embeds, first.step_chunk
    )


class _Pass:
    """One pass over the chunks. Lives for one call of `prefill`."""

    def __init__(
        self,
        model: VideoModel,
        prompt: Prompt,
        levels: Mapping[str, Level],
        context: str,
        positions: str,
        meter: Meter,
        video_seed: int,
    ) -> None:
        self.model, self.prompt, self.levels, self.context = model, prompt, levels, context
        self.positions, self.meter, self.video_seed = positions, meter, video_seed
        self.needs = frozenset[str]().union(*(level.compressor.needs for level in levels.values()))
        if not self.needs <= CAN_SEE:
            raise ValueError(
                f"compressor needs {sorted(self.needs - CAN_SEE)}: the engine can show {sorted(CAN_SEE)}"
            )

    def run(self, chunk_done: Callable[[], None]) -> KVStore:
        model, prompt, meter = self.model, self.prompt, self.meter
        cache = model.new_cache()
        text = slice(0, prompt.prefix)
        with meter.stage("prefill"):
            model.advance(
                model.embed_text(prompt.input_ids[text]), prompt.positions[:, text], cache
            )
            prefix = self._raw(
                cache,
                (0,) * model.shape.layers,
                prompt.positions[:, text],
                prompt.positions[:, text],
            )
        meter.add("prefill", decoder_flops(model.shape, prompt.prefix, prompt.prefix))
        stored: dict[str, list[KV]] = {name: [] for name in self.levels}
        embeds, owner = [], []
        cursor = first_cursor(prompt)
        for chunk in prompt.chunks:
            with meter.stage("vision"):
                embedded = model.embed_chunk(prompt, chunk)
            if embedded.patch_grid is not None:
                meter.add("vision", vision_flops(model.shape.vision, embedded.patch_grid))
            visual = embedded.embeds[0, chunk.is_visual.to(embedded.embeds.device)]
            embeds.append(
                visual.view(chunk.grid[0], -1, visual.shape[-1]).float().mean(dim=1).cpu()
            )
            owner += [chunk.index] * chunk.grid[0]
            levels, cursor = self._chunk(chunk, embedded, cache, cursor)
            for name, kv in levels.items():
                stored[name].append(kv if name in RESIDENT else kv.to("cpu"))
            chunk_done()
        return KVStore(
            prompt=replace(prompt, visual={}),
            prefix=prefix,
            levels={name: tuple(kvs) for name, kvs in stored.items()},
            positions=self.positions,
            step_embeds=torch.cat(embeds),
            step_chunk=tuple(owner),
        )

    def _chunk(
        self, chunk: Chunk, embedded: Embedded, cache: BufferCache, cursor: Cursor
    ) -> tuple[dict[str, KV], Cursor]:
        """Pre-fills one chunk, compresses it to every level, and leaves the context that later chunks attend to."""
        model, meter, before = self.model, self.meter, cache.lengths
        compact = self.positions == "compact" and self.context != "full"
        used = shifted(chunk, cursor) if compact else chunk.positions
        watch = Watch() if "queries" in self.needs else None
        with meter.stage("prefill"):
            model.advance(embedded, used, cache, watch)
            raw = self._raw(cache, before, used, chunk.positions)
        keys = sum(cache.lengths) / len(before)
        meter.add("prefill", decoder_flops(model.shape, chunk.tokens, round(keys)))
        with meter.stage("compression"):
            levels = {
                name: self._compress(level, raw, chunk, watch)
                for name, level in self.levels.items()
            }
            if self.context != "full":
                cache.cut(before)
                for index, layer in enumerate(levels[self.context].layers):
                    moved, after = layer.positions, cursor
                    if compact:
                        moved, after = compacted(self.prompt, chunk, layer.positions, cursor)
                    rotated = model.rotate(LayerKV(layer.keys, layer.values, moved, layer.weights))
                    cache.append(index, rotated, layer.values, layer.weights)
                cursor = after
        return levels, cursor

    def _raw(
        self, cache: BufferCache, before: tuple[int, ...], used: torch.Tensor, own: torch.Tensor
    ) -> KV:
        """The KVs that the last forward appended: un-rotated from the positions `used`, labelled with their `own`."""
        layers = []
        for layer, start in zip(cache.layers, before, strict=True):
            keys, values = layer.tail(start)
            device = keys.device
            layers.append(
                LayerKV(
                    self.model.unrotate(keys, used.to(device)),
                    values.clone(),
                    own[:, None].to(device, torch.float32),
                    torch.ones(1, keys.shape[2], device=device),
                )
            )
        return KV(tuple(layers))

    def _compress(self, level: Level, raw: KV, chunk: Chunk, watch: Watch | None) -> KV:
        keep = kept_tokens(chunk.visual_tokens, level.ratio)
        if keep == chunk.visual_tokens:
            return raw
        layers = []
        for index, layer in enumerate(raw.layers):
            visual = chunk.is_visual.to(layer.keys.device)
            at = visual.nonzero()[:, 0]
            seen = Observation(
                layer=index,
                chunk=chunk.index,
                grid=chunk.grid,
                video_seed=self.video_seed,
                queries=watch.queries[index][:, :, at] if watch is not None else None,
            )
            kept = level.compressor.compress(layer.take(at), seen, keep)
            if kept.tokens != keep:
                raise RuntimeError(
                    f"compressor {level.compressor.name!r} returned {kept.tokens} KVs of "
                    f"{chunk.visual_tokens} in chunk {chunk.index}, "
                    f"layer {index}; it was told to keep {keep} (ratio {level.ratio})"
                )
            layers.append(
                kept
                if bool(visual.all())
                else _with_text(layer.take((~visual).nonzero()[:, 0]), kept)
            )
        shape = self.model.shape
        self.meter.add(
            "compression",
            shape.layers
            * level.compressor.flops(shape.kv_heads, chunk.visual_tokens, keep, shape.head_dim),
        )
        return KV(tuple(layers))


def _with_text(text: LayerKV, visual: LayerKV) -> LayerKV:
    """Text KVs of a chunk and its compressed visual KVs, by temporal position; every head keeps its own order."""
    both = concat_layers([text, visual])
    heads = both.keys.shape[1]
    order = both.positions[0].expand(heads, -1).argsort(dim=-1, stable=True)
    return both.take(order)
