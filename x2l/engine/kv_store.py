"""The KVs of one video at every level, by chunk; and how they are mixed into one cache.

The coarsest level (the paper's H-KVs) stays on the compute device, all others on the host, from where they are
re-loaded. Where a model is spread
over several devices, KVs of a layer go to the device of that layer, which is where the prefix has them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from x2l.engine.attended_keys import AttendedKeys, ChunkKeys
from x2l.kv import KV, LayerKV, StoredKV, concat, concat_layers
from x2l.models.positions import (
    Cursor,
    Placement,
    compacted,
    first_cursor,
    furthest,
    placement,
)
from x2l.models.prompt import Prompt

POSITIONS = ("keep", "compact")
_Held = tuple[int, str | None, Cursor | None]  # a chunk, its level, and where it starts


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

    def layers(self, stop: int | None = None) -> Iterator[LayerKV]:
        """Layers up to `stop`, joined and decoded where the first part has them.

        What is copied there is the stored form; of copies and decoded KVs only one layer's live at a time, if each is
        used up before the next.
        """
        return _joined(self.parts, len(self.spans) if stop is None else stop)

    @property
    def kv(self) -> KV:
        """All layers, joined and decoded."""
        return concat(self.parts)


@dataclass(frozen=True)
class MixedRows:
    """Several mixed caches before RoPE: what any of them holds, once, and which of it is whose.

    Attributes:
        parts: prefix, and each chunk in every form and place that a cache holds it in, in time order.
        rows: of each layer, `(caches, T)` indices into its joined parts, rising; -1 behind those of shorter caches.
        places: of each cache, the first position of its question.
        tokens: of each cache, KVs a head, layer by layer.
    """

    parts: tuple[KV | StoredKV, ...]
    rows: tuple[Tensor, ...]
    places: tuple[Placement, ...]
    tokens: tuple[tuple[int, ...], ...]

    @property
    def mean_tokens(self) -> tuple[int, ...]:
        """KVs of a layer of each cache, the mean over layers."""
        return tuple(round(sum(of_layers) / len(of_layers)) for of_layers in self.tokens)

    def layers(self) -> Iterator[LayerKV]:
        """The joined parts layer by layer, decoded where the first part has them; see `Mixed.layers`."""
        return _joined(self.parts, len(self.rows))


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
class _Sizes:
    """Of each chunk at one level, added up over layers."""

    tokens: tuple[int, ...]
    nbytes: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    decode_flops: tuple[int, ...]

    @staticmethod
    def of(chunks: Sequence[StoredKV]) -> _Sizes:
        return _Sizes(
            tuple(sum(kv.tokens) for kv in chunks),
            tuple(kv.nbytes for kv in chunks),
            tuple(kv.stored_bytes for kv in chunks),
            tuple(kv.decode_flops for kv in chunks),
        )


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
        return self._sizes[level].nbytes

    def stored_bytes(self, level: str) -> tuple[int, ...]:
        """Bytes of each chunk as stored, positions and weights included."""
        return self._sizes[level].stored_bytes

    def mixed_tokens(self, assignment: Sequence[str]) -> int:
        """KVs a head of the mixed cache that `mix` would make, of all layers together."""
        chunks = (self._sizes[level].tokens[i] for i, level in enumerate(assignment))
        return sum(self.prefix.tokens) + sum(chunks)

    def decode_flops(self, level: str) -> tuple[int, ...]:
        """Operations of decoding each chunk from the form that it is stored in."""
        return self._sizes[level].decode_flops

    @cached_property
    def _sizes(self) -> Mapping[str, _Sizes]:
        """Of every level, added up once: each answer asks for them."""
        return {name: _Sizes.of(chunks) for name, chunks in self.levels.items()}

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
        chosen = [self._part(*of_chunk) for of_chunk in enumerate(assignment)]
        nbytes = self.prefix.nbytes + sum(part.nbytes for part in chosen)
        stored = self.prefix.stored_bytes + sum(part.stored_bytes for part in chosen)
        parts, place = self._placed(chosen)
        counts = zip(self.prefix.tokens, *(part.tokens for part in parts), strict=True)
        spans = tuple(tuple(pairwise(accumulate(count))) for count in counts)
        return Mixed((self.prefix, *parts), place, spans, nbytes, stored)

    def mix_rows(self, assignments: Sequence[Sequence[str | None]]) -> MixedRows:
        """Several mixed caches at once, as `mix` makes each; what many hold at the same positions is read once. Pure.

        Raises:
            ValueError: see `mix`.
        """
        parts: dict[_Held, tuple[StoredKV, Cursor | None]] = {}
        of_rows, places = [], []
        for assignment in assignments:
            self._check(assignment)
            held, cursor = [], self._first_cursor
            for chunk, level in enumerate(assignment):
                key = (chunk, level, cursor)
                if key not in parts:
                    parts[key] = self._moved(self._part(chunk, level), chunk, cursor)
                held.append(key)
                cursor = parts[key][1]
            of_rows.append(held)
            places.append(self._placement(cursor))
        order = sorted(parts, key=lambda key: key[0])
        column = {key: index for index, key in enumerate(order, 1)}
        holds = torch.zeros(len(of_rows), 1 + len(order), dtype=torch.bool)
        holds[:, 0] = True  # the prefix
        for row, held in enumerate(of_rows):
            holds[row, [column[key] for key in held]] = True
        joined: tuple[KV | StoredKV, ...] = (self.prefix, *(parts[key][0] for key in order))
        counts = torch.tensor([part.tokens for part in joined]).T  # (layers, parts)
        rows = {of_layer: _indices(holds, of_layer) for of_layer in map(tuple, counts.tolist())}
        tokens = holds.long() @ counts.T
        return MixedRows(
            joined,
            tuple(rows[of_layer] for of_layer in map(tuple, counts.tolist())),
            tuple(places),
            tuple(map(tuple, tokens.tolist())),
        )

    def _check(self, assignment: Sequence[str | None]) -> None:
        unknown = {level for level in assignment if level is not None} - set(self.levels)
        if len(assignment) != len(self.prompt.chunks) or unknown:
            raise ValueError(
                f"assignment={list(assignment)}: must name one of the levels {list(self.levels)} "
                f"for each of the {len(self.prompt.chunks)} chunks"
            )

    def _part(self, chunk: int, level: str | None) -> StoredKV:
        """A chunk at a level; nothing where it has none."""
        return nothing_of(self.prefix) if level is None else self.levels[level][chunk]

    def _placed(self, parts: Sequence[StoredKV]) -> tuple[list[StoredKV], Placement]:
        """Every chunk at the positions of a cache that holds these, and where the question goes. Copies no KVs."""
        cursor, moved = self._first_cursor, []
        for chunk, part in enumerate(parts):
            there, cursor = self._moved(part, chunk, cursor)
            moved.append(there)
        return moved, self._placement(cursor)

    @property
    def _first_cursor(self) -> Cursor | None:
        """Where the first chunk starts; None where chunks stay where they were."""
        return None if self.positions == "keep" else first_cursor(self.prompt)

    def _moved(
        self, part: StoredKV, index: int, cursor: Cursor | None
    ) -> tuple[StoredKV, Cursor | None]:
        """A chunk that starts at the cursor, and where the next one starts."""
        if cursor is None:
            return part, None
        layers, ends = [], []
        for layer in part.layers:
            chunk, positions = self.prompt.chunks[index], layer.decoded_positions()
            moved, after = compacted(self.prompt, chunk, positions, cursor)
            layers.append(layer.with_positions(moved))
            ends.append(after)
        return StoredKV(tuple(layers)), furthest(ends)

    def _placement(self, cursor: Cursor | None) -> Placement:
        """Where the question goes behind chunks that end at the cursor."""
        if cursor is None:
            return Placement(self.prompt.next_position, self.prompt.video_end)
        return placement(self.prompt, cursor)


def _joined(parts: Sequence[KV | StoredKV], layers: int) -> Iterator[LayerKV]:
    for index in range(layers):
        yield concat_layers([part.layers[index] for part in parts])


def _indices(holds: Tensor, counts: Sequence[int]) -> Tensor:
    """Indices of the KVs that each row holds, rising, and -1 behind them, `(rows, T)`.

    Args:
        holds: `(rows, parts)` bool.
        counts: KVs of each part.
    """
    held = holds.repeat_interleave(torch.tensor(counts), dim=1)
    row, index = held.nonzero(as_tuple=True)
    sizes = held.sum(dim=1)
    before = sizes.cumsum(dim=0) - sizes
    indices = torch.full((len(holds), int(sizes.max())), -1)
    indices[row, torch.arange(len(row)) - before[row]] = index
    return indices


def nothing_of(kv: KV) -> StoredKV:
    """No KVs at all, in as many layers and heads: a chunk that is dropped."""
    return StoredKV(tuple(layer.take(torch.empty(0, dtype=torch.long)) for layer in kv.layers))
