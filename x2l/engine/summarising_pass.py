"""A pass that runs every chunk with summary tokens between its own, and keeps their KVs only.

As the official code of Video-X2L does (3134dc5b, `modeling_beacon.py`): a window of T + n tokens behind what is cached,
numbered on without gaps, summary tokens taking positions like any other; then all but their KVs is forgotten.
"""

from __future__ import annotations

import torch

from x2l.compressors.summary_tokens import Summariser
from x2l.engine.flops import decoder_flops
from x2l.engine.meter import Meter
from x2l.engine.prefill_pass import PassPlan, PrefillPass, stored_layer
from x2l.kv import KV, StoredKV
from x2l.models.interface import Embedded, VideoModel
from x2l.models.prompt import Chunk, Prompt


class SummarisingPass(PrefillPass):
    """Final. For one level, whose method is a `Summariser`, as its own context with compact positions."""

    def __init__(self, model: VideoModel, prompt: Prompt, plan: PassPlan, meter: Meter) -> None:
        """Plans where summary tokens stand in every chunk."""
        ((self.name, self.level),) = plan.levels.items()
        method = self.level.compressor
        assert isinstance(method, Summariser)
        tokens = [chunk.visual_tokens for chunk in prompt.chunks]
        self.insertions = method.plan(tokens, self.level.ratio)
        super().__init__(model, prompt, plan, meter)

    def prefill_chunk(self, chunk: Chunk, embedded: Embedded) -> None:
        """Runs the chunk's window, stores the KVs of its summary tokens, and leaves them to later chunks."""
        model, meter, cache = self.model, self.meter, self.cache
        insertion, before = self.insertions[chunk.index], cache.lengths
        window = model.with_summary_tokens(embedded, insertion.at)
        tokens = window.embeds.shape[1]
        used = (torch.arange(tokens) + int(self.cursor.position)).expand(model.axes, -1)
        with meter.stage("prefill"):
            model.prefill_span(window, used, cache)
            original = chunk.positions[:, insertion.behind]
            kept = self.appended_at(insertion.at, before, used[:, insertion.at], original)
        keys = round(sum(cache.lengths) / len(before))
        meter.add("prefill", decoder_flops(model.shape, tokens, keys))
        with meter.stage("compression"):
            stored = self._encoded(kept)
            cache.cut(before)
            self.leave(stored.decode(), chunk, compact=True)
            self.store(self.name, stored)

    def _encoded(self, kept: KV) -> StoredKV:
        """In the level's form."""
        shape, codec = self.model.shape, self.level.codec
        if codec is not None:
            flops = (codec.flops(shape.kv_heads, tokens, shape.head_dim) for tokens in kept.tokens)
            self.meter.add("compression", sum(flops))
        return StoredKV(tuple(stored_layer(self.level, layer, None) for layer in kept.layers))
