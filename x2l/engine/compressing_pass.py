"""A pass that runs every chunk whole, then compresses its KVs to every level."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from x2l.compressors.base import CAN_SEE, Compressor, Level, Observation
from x2l.engine.flops import compression_flops, decoder_flops
from x2l.engine.meter import Meter
from x2l.engine.prefill_pass import PassPlan, PrefillPass, stored_layer
from x2l.kv import KV, LayerKV, PlainLayer, StoredKV
from x2l.models.attention import AttentionCapture
from x2l.models.interface import Embedded, VideoModel
from x2l.models.positions import shifted
from x2l.models.prompt import Chunk, Prompt


class CompressingPass(PrefillPass):
    """Final. For levels whose method is a `Compressor`."""

    def __init__(self, model: VideoModel, prompt: Prompt, plan: PassPlan, meter: Meter) -> None:
        """Finds out what the compressors need to see.

        Raises:
            ValueError: one needs what the engine cannot show.
        """
        self.methods = {name: level.compressor for name, level in plan.levels.items()}
        self.needs = frozenset[str]().union(*(method.needs for method in self.methods.values()))
        if not self.needs <= CAN_SEE:
            raise ValueError(
                f"compressor needs {sorted(self.needs - CAN_SEE)}: the engine can show {sorted(CAN_SEE)}"
            )
        tokens = [chunk.visual_tokens for chunk in prompt.chunks]
        layers = model.shape.layers
        self.kept = {name: level.counts(tokens, layers) for name, level in plan.levels.items()}
        super().__init__(model, prompt, plan, meter)

    def prefill_chunk(self, chunk: Chunk, embedded: Embedded) -> None:
        """Pre-fills one chunk, compresses it to every level, and leaves the context that later chunks attend to."""
        model, meter, cache, context = self.model, self.meter, self.cache, self.plan.context
        before = cache.lengths
        compact = self.plan.positions == "compact" and context != "full"
        used = shifted(self.prompt, chunk, self.cursor) if compact else chunk.positions
        capture = None
        if self.writers or "queries" in self.needs:
            capture = AttentionCapture(want_keys=bool(self.writers))
        with meter.stage("prefill"):
            model.prefill_span(embedded, used, cache, capture)
            raw = self.appended(before, used, chunk.positions)
        keys = sum(cache.lengths) / len(before)
        meter.add("prefill", decoder_flops(model.shape, chunk.tokens, round(keys)))
        for writer in self.writers:
            assert capture is not None
            writer.write(chunk, raw, capture, cache.bias, meter)
        with meter.stage("compression"):
            probes = self._probe(used)
            levels = {
                name: self._compressed(name, raw, chunk, used, capture, probes)
                for name in self.plan.levels
            }
            if context != "full":
                cache.cut(before)
                self.leave(levels[context].decode(), chunk, compact)
            for name, kv in levels.items():
                self.store(name, kv)

    def _probe(self, used: Tensor) -> dict[str, AttentionCapture]:
        """Runs each probe text right behind the chunk, shows its queries, and forgets its KVs."""
        texts = {method.probe for method in self.methods.values() if "probe" in method.needs}
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

    def _compressed(
        self,
        name: str,
        raw: KV,
        chunk: Chunk,
        used: Tensor,
        capture: AttentionCapture | None,
        probes: Mapping[str, AttentionCapture],
    ) -> StoredKV:
        level, method, keeps = (
            self.plan.levels[name],
            self.methods[name],
            self.kept[name][chunk.index],
        )
        assert isinstance(method, Compressor)
        if min(keeps) == chunk.visual_tokens and level.codec is None:
            return StoredKV(tuple(map(PlainLayer.of, raw.layers)))
        needs, probe = method.needs, probes.get(method.probe)
        layers = []
        for index, layer in enumerate(raw.layers):
            is_visual = chunk.is_visual.to(layer.keys.device)
            places = is_visual.nonzero()[:, 0]
            obs = Observation(
                layer=index,
                chunk=chunk.index,
                grid=chunk.grid,
                video_seed=self.plan.video_seed,
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
                kept = method.compress(visual, obs, keeps[index])
                _check_kept(level, kept, keeps[index], obs, visual.tokens)
            text = None if bool(is_visual.all()) else layer.take((~is_visual).nonzero()[:, 0])
            layers.append(stored_layer(level, kept, text))
        probe_tokens = probe.queries[0].shape[2] if probe else 0
        flops = compression_flops(self.model.shape, level, chunk.visual_tokens, keeps, probe_tokens)
        self.meter.add("compression", flops)
        return StoredKV(tuple(layers))


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
