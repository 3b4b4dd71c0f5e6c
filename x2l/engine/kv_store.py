"""The KVs of one video at every level, by chunk; and how they are mixed into one cache.

The coarsest level (the paper's H-KVs) stays on the compute device, all others on the host, from where they are
re-loaded. Where a model is spread
over several devices, KVs of a layer go to the device of that layer, which is where the prefix has them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from x2l.engine.attended_keys import AttendedKeys, ChunkKeys
from x2l.kv import KV, LayerKV, StoredKV, concat, concat_layers
from x2l.models.positions import Placement, compacted, first_cursor, furthest, placement
from x2l.models.prompt import Prompt

POSITIONS = ("keep", "compact")


@dataclass(frozen=True)
class Mixed:
    """A mixed cache before RoPE, and where the question goes.

    Attributes:
        parts: prefix and chunks in time order, as they are stored, positions as they are to be used.
        place: first position of the question, and of generated tokens.
        spans: for each layer, the KVs of each chunk as (start, stop) in that layer of `kv`.
        nbytes: of keys and values as they are stored, which is what a budget buys.
        stored_bytes: of all that is stored of them, positions and weights included.
    """

    parts: tuple[KV | StoredKV, ...]
    place: Placement
    spans: tuple[tuple[tuple[int, int], ...], ...]
    nbytes: int
    stored_bytes: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """KVs a head, layer by layer."""
        return tuple(spans[-1][1] for spans in self.spans)

    @property
    def mean_tokens(self) -> int:
        """KVs of a layer, the mean over layers."""
        return round(sum(self.tokens) / len(self.tokens))

    @property
    def decode_flops(self) -> int:
        """Floating point operations of decoding what a codec stored."""
        return sum(part.decode_flops for part in self.parts if isinstance(part, StoredKV))

    def layers(self, stop: int | None = None) -> Iterator[LayerKV]:
        """Layers up to `stop`, joined and decoded where the first part has them.

        What is copied there is the stored form; of copies and decoded KVs only one layer's live at a time, if each is
        used up before the next.
        """
        for index in range(len(self.spans) if stop is None else stop):
            yield concat_layers([part.layers[index] for part in self.parts])

    @property
    def kv(self) -> KV:
        """All layers, joined and decoded."""
        return KV(tuple(self.layers()))


@dataclass(frozen=True)
class MixedRows:
    """Several mixed caches that stand at the same positions: what any of them holds, once, and which of it is whose.

    Attributes:
        kv: prefix, and each chunk at every level that a cache has it at, in time order.
        rows: of each layer, `(caches, T)` indices into `kv`, rising; -1 behind those of shorter caches.
        place: first position of the question.
        mean_tokens: KVs of a layer of each cache, the mean over layers.
    """

    kv: KV
    rows: tuple[Tensor, ...]
    place: Placement
    mean_tokens: tuple[int, ...]


@dataclass(frozen=True)
class LevelKeys:
    """Keys of one KV head in one layer, of all chunks at one level, on the device of that layer.

    Attributes:
        vectors: `(T, D)`, un-rotated.
        positions: `(A, T)`, those of a cache that holds this level of every chunk.
        counts: keys of each chunk; chunks stand in time order.
        streamed_bytes: read from the host for it, as stored there.
    """

    vectors: Tensor
    positions: Tensor
    counts: tuple[int, ...]
    streamed_bytes: int


@dataclass(frozen=True)
class KVStore:
    """What a pre-fill leaves behind. Serves any number of questions; nothing here is ever changed.

    Attributes:
        prompt: the prompt that was pre-filled, without its pixels.
        prefix: KVs of the text before the video, each layer on the device that the model runs it on.
        levels: level name, finest first -> KVs of every chunk in the form that they are stored in, with original
            positions. The last one stays on the compute device.
        positions: `keep` or `compact`.
        step_embeds: `(time steps, hidden)` mean input embedding of each time step's visual tokens (for selectors).
        step_chunk: chunk of each time step.
        indexes: keys of every chunk that the pre-fill was told to keep beside the levels, on the compute device.
    """

    prompt: Prompt
    prefix: KV
    levels: Mapping[str, tuple[StoredKV, ...]]
    positions: str
    step_embeds: Tensor
    step_chunk: tuple[int, ...]
    indexes: Mapping[AttendedKeys, ChunkKeys] = field(default_factory=dict)

    @property
    def finest(self) -> str:
        """The level that chunks are re-loaded at."""
        return next(iter(self.levels))

    @property
    def coarsest(self) -> str:
        """The level that stays on the compute device."""
        return tuple(self.levels)[-1]

    def kept(self, level: str) -> tuple[int, ...]:
        """Visual tokens kept of each chunk, mean over layers and heads, which is a whole number.

        Text inside a chunk is kept with it and not counted.
        """
        heads = sum(layer.keys.shape[1] for layer in self.prefix.layers)  # of all layers
        return tuple(
            max(kv.kv_count // heads - (chunk.tokens - chunk.visual_tokens), 0)
            for kv, chunk in zip(self.levels[level], self.prompt.chunks, strict=True)
        )

    def measured_ratio(self, level: str) -> float:
        """Visual tokens in / visual tokens out that was really obtained; infinite where chunks are dropped."""
        kept = sum(self.kept(level))
        return sum(c.visual_tokens for c in self.prompt.chunks) / kept if kept else math.inf

    def nbytes(self, level: str) -> tuple[int, ...]:
        """Bytes of keys and values of each chunk, as stored."""
        return tuple(kv.nbytes for kv in self.levels[level])

    def stored_bytes(self, level: str) -> tuple[int, ...]:
        """Bytes of each chunk as stored, positions and weights included."""
        return tuple(kv.stored_bytes for kv in self.levels[level])

    @property
    def nbytes_host(self) -> int:
        """Bytes of all levels that wait on the host."""
        return sum(sum(self.stored_bytes(level)) for level in self.levels if level != self.coarsest)

    def reloading(self, selected: Collection[int]) -> tuple[str, ...]:
        """The assignment of the paper: the selected chunks at the finest level, all others at the coarsest.

        Raises:
            ValueError: a chunk that the video does not have.
        """
        chunks = range(len(self.prompt.chunks))
        if unknown := sorted(set(selected) - set(chunks)):
            raise ValueError(
                f"selected={unknown}: the video has {len(chunks)} chunks; number them from 0 to {len(chunks) - 1}"
            )
        return tuple(self.finest if index in selected else self.coarsest for index in chunks)

    def keys(self, level: str, layer: int, heads: Collection[int]) -> tuple[LevelKeys, ...]:
        """Keys of some KV heads in one layer at one level. Nothing else of the level is copied or decoded.

        Raises:
            ValueError: the level drops chunks, so that it has no keys.
        """
        if not any(self.nbytes(level)):
            raise ValueError(
                f"level={level}: chunks are dropped at it, so it has no keys; use {self.finest}"
            )
        parts, _ = self._placed(self.levels[level])
        device = self.prefix.layers[layer].device
        stored, found = [part.layers[layer] for part in parts], []
        for head in heads:
            read = [one.head_keys(head, device) for one in stored]
            streamed = 0 if level == self.coarsest else sum(s.head_key_bytes(head) for s in stored)
            found.append(
                LevelKeys(
                    torch.cat([one.vectors for one in read]),
                    torch.cat([one.positions for one in read], dim=1),
                    tuple(len(one.vectors) for one in read),
                    streamed,
                )
            )
        return tuple(found)

    def place(self, level: str) -> Placement:
        """Where the question goes behind a cache that holds one level of every chunk."""
        return self._placed(self.levels[level])[1]

    def mix(self, assignment: Sequence[str | None]) -> Mixed:
        """Joins prefix and chunks, each at the level that `assignment` names for it; None drops the chunk. Pure.

        Raises:
            ValueError: not one level a chunk, or an unknown level.
        """
        self._check(assignment)
        chosen = self._parts(enumerate(assignment))
        nbytes = self.prefix.nbytes + sum(part.nbytes for part in chosen)
        stored = self.prefix.stored_bytes + sum(part.stored_bytes for part in chosen)
        parts, place = self._placed(chosen)
        counts = zip(self.prefix.tokens, *(part.tokens for part in parts), strict=True)
        spans = tuple(tuple(pairwise(accumulate(count))) for count in counts)
        return Mixed((self.prefix, *parts), place, spans, nbytes, stored)

    def mix_rows(self, assignments: Sequence[Sequence[str | None]]) -> MixedRows:
        """Several mixed caches at once, as `mix` makes each; a chunk that many hold at one level is read once. Pure.

        Raises:
            ValueError: see `mix`; or more than one where chunks move those behind them (`compact`).
        """
        for assignment in assignments:
            self._check(assignment)
        if self.positions == "compact" and len(assignments) > 1:
            raise ValueError(
                "positions=compact: mixed caches differ in where chunks stand; mix one at a time"
            )
        chosen = [list(enumerate(assignment)) for assignment in assignments]
        pairs = sorted(dict.fromkeys(p for row in chosen for p in row), key=lambda pair: pair[0])
        parts, place = self._placed(self._parts(pairs))
        holds = torch.tensor([[True, *(pair in row for pair in pairs)] for row in map(set, chosen)])
        counts = zip(self.prefix.tokens, *(part.tokens for part in parts), strict=True)
        held = [holds.repeat_interleave(torch.tensor(count), dim=1) for count in counts]
        tokens = torch.stack([of_layer.sum(dim=1) for of_layer in held])
        mean = tuple(map(round, tokens.double().mean(dim=0).tolist()))
        kv = concat([self.prefix, *parts])
        return MixedRows(kv, tuple(map(_indices, held)), place, mean)

    def _check(self, assignment: Sequence[str | None]) -> None:
        unknown = {level for level in assignment if level is not None} - set(self.levels)
        if len(assignment) != len(self.prompt.chunks) or unknown:
            raise ValueError(
                f"assignment={list(assignment)}: must name one of the levels {list(self.levels)} "
                f"for each of the {len(self.prompt.chunks)} chunks"
            )

    def _parts(self, pairs: Iterable[tuple[int, str | None]]) -> list[StoredKV]:
        """Chunks, each at a level; nothing of one without a level."""
        empty = nothing_of(self.prefix)
        return [empty if level is None else self.levels[level][chunk] for chunk, level in pairs]

    def _placed(self, parts: Sequence[StoredKV]) -> tuple[Sequence[StoredKV], Placement]:
        """Every chunk at the positions of a cache that holds these, and where the question goes. Copies no KVs."""
        if self.positions == "keep":
            return parts, Placement(self.prompt.next_position, self.prompt.video_end)
        return self._compact(parts)

    def _compact(self, parts: Sequence[StoredKV]) -> tuple[list[StoredKV], Placement]:
        cursor, closed = first_cursor(self.prompt), []
        for part, chunk in zip(parts, self.prompt.chunks, strict=True):
            layers, ends = [], []
            for layer in part.layers:
                moved, after = compacted(self.prompt, chunk, layer.decoded_positions(), cursor)
                layers.append(layer.with_positions(moved))
                ends.append(after)
            cursor = furthest(ends)
            closed.append(StoredKV(tuple(layers)))
        return closed, placement(self.prompt, cursor)


def _indices(held: Tensor) -> Tensor:
    """Indices of what each row of `(rows, KVs)` holds, rising, and -1 behind them, `(rows, T)`."""
    order = held.int().argsort(dim=1, descending=True, stable=True)
    counts = held.sum(dim=1, keepdim=True)
    most = int(counts.max())
    return order[:, :most].masked_fill(torch.arange(most) >= counts, -1)


def nothing_of(kv: KV) -> StoredKV:
    """No KVs at all, in as many layers and heads: a chunk that is dropped."""
    return StoredKV(tuple(layer.take(torch.empty(0, dtype=torch.long)) for layer in kv.layers))
