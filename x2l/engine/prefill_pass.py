"""One pass of the decoder over the chunks: what both kinds of it share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.compressors.base import Level
from x2l.compressors.stored_forms import Interleaved, Ragged, by_head, interleaved
from x2l.engine.attended_keys import AttendedKeys, IndexWriter
from x2l.engine.flops import decoder_flops
from x2l.engine.host_copy import to_host
from x2l.engine.meter import Meter
from x2l.kv import KV, LayerKV, PlainLayer, StoredKV, StoredLayer
from x2l.models.interface import Embedded, VideoModel
from x2l.models.positions import compacted, first_cursor, furthest
from x2l.models.prompt import Chunk, Prompt


@dataclass(frozen=True)
class PassPlan:
    """What one pass is to do.

    Attributes:
        levels: those that it emits, by name.
        context: what it leaves in sight of later chunks: `full`, or a name of `levels`.
        positions: `keep` or `compact`.
        capacity: the most KVs that a layer has in its context at any time, so that no buffer has to be doubled.
        resident: the level that stays on the compute device.
        video_seed: for compressors that draw at random.
        indexes: keys of every chunk to keep beside the levels.
    """

    levels: Mapping[str, Level]
    context: str
    positions: str
    capacity: int
    resident: str
    video_seed: int
    indexes: tuple[AttendedKeys, ...] = ()


class PrefillPass(ABC):
    """Abstract: one pass, with the context that it leaves. Lives for one call of `prefill`.

    Attributes:
        prefix: KVs of the text before the video.
        stored: KVs of the chunks run so far, by level.
        writers: of the indexes.
    """

    def __init__(self, model: VideoModel, prompt: Prompt, plan: PassPlan, meter: Meter) -> None:
        """Runs the text before the video."""
        self.model, self.prompt, self.plan, self.meter = model, prompt, plan, meter
        self.cache, self.cursor = model.new_cache(plan.capacity), first_cursor(prompt)
        self.stored: dict[str, list[StoredKV]] = {name: [] for name in plan.levels}
        self.writers = [IndexWriter(index) for index in plan.indexes]
        before = prompt.positions[:, : prompt.prefix]
        with meter.stage("prefill"):
            text = model.embed_text(prompt.input_ids[: prompt.prefix])
            model.prefill_span(text, before, self.cache)
            self.prefix = self.appended((0,) * model.shape.layers, before, before)
        meter.add("prefill", decoder_flops(model.shape, prompt.prefix, prompt.prefix))

    @abstractmethod
    def prefill_chunk(self, chunk: Chunk, embedded: Embedded) -> None:
        """Pre-fills one chunk, stores it at every level, and leaves the context that later chunks attend to."""

    def appended(self, before: tuple[int, ...], used: Tensor, original: Tensor) -> KV:
        """The KVs that the last forward appended: un-rotated from the positions `used`, labelled with `original`."""
        every = torch.arange(used.shape[1])
        return self.appended_at(every, before, used, original)

    def appended_at(
        self, rows: Tensor, before: tuple[int, ...], used: Tensor, original: Tensor
    ) -> KV:
        """Those of them that stand at `rows` `(n,)`.

        Args:
            rows: indices among what was appended.
            before: KVs of each layer before that.
            used: `(A, n)`, the positions that these were rotated to.
            original: `(A, n)`, those that they are labelled with.
        """
        layers = []
        for layer, start in zip(self.cache.layers, before, strict=True):
            keys, values = layer.tail(start)
            device = keys.device
            at = rows.to(device)
            layers.append(
                LayerKV(
                    self.model.unrotate(keys[:, :, at], used.to(device)),
                    values[:, :, at],
                    original[:, None].to(device, torch.float32),
                    torch.ones(1, len(rows), device=device),
                )
            )
        return KV(tuple(layers))

    def leave(self, kv: KV, chunk: Chunk, compact: bool) -> None:
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

    def store(self, name: str, kv: StoredKV) -> None:
        """Keeps a chunk's KVs at a level, on the host unless the level stays on the compute device."""
        self.stored[name].append(kv if name == self.plan.resident else to_host(kv))


def stored_layer(level: Level, kept: LayerKV, text: LayerKV | None) -> StoredLayer:
    """One layer of a chunk in the level's form; text inside the chunk is never compressed, nor quantised."""
    encode = level.codec.encode if level.codec else PlainLayer.of
    uneven = level.compressor.ragged and bool((kept.weights == 0).any())
    if level.codec is None and not uneven:
        return PlainLayer.of(kept if text is None else interleaved(text, kept))
    visual = Ragged(tuple(map(encode, by_head(kept)))) if uneven else encode(kept)
    return visual if text is None else Interleaved(PlainLayer.of(text), visual)
