"""The KVs of one video at every level, by chunk; and how they are mixed into one cache.

H-KVs stay on the compute device, all other levels on the host, from where they are re-loaded. Where a model is spread
over several devices, KVs of a layer go to the device of that layer, which is where the prefix has them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor

from x2l.kv import KV, StoredKV, concat
from x2l.models.positions import Placement, compacted, first_cursor, furthest, placement
from x2l.models.prompt import Prompt

POSITIONS = ("keep", "compact")
# Levels that stay on the compute device; all others wait on the host.
RESIDENT = frozenset({"high"})


@dataclass(frozen=True)
class Mixed:
    """A mixed cache before RoPE, and where the question goes.

    Attributes:
        kv: prefix and chunks in time order, positions as they are to be used.
        place: first position of the question, and of generated tokens.
        spans: for each layer, the KVs of each chunk as (start, stop) in that layer of `kv`.
        nbytes: bytes of keys and values as they are stored; `kv`, which attention works on, is decoded.
    """

    kv: KV
    place: Placement
    spans: tuple[tuple[tuple[int, int], ...], ...]
    nbytes: int


@dataclass(frozen=True)
class KVStore:
    """What a pre-fill leaves behind. Serves any number of questions; nothing here is ever changed.

    Attributes:
        prompt: the prompt that was pre-filled, without its pixels.
        prefix: KVs of the text before the video, each layer on the device that the model runs it on.
        levels: level name -> KVs of every chunk in the form that they are stored in, with original positions.
        positions: `keep` or `compact`.
        step_embeds: `(time steps, hidden)` mean input embedding of each time step's visual tokens (for selectors).
        step_chunk: chunk of each time step.
    """

    prompt: Prompt
    prefix: KV
    levels: Mapping[str, tuple[StoredKV, ...]]
    positions: str
    step_embeds: Tensor
    step_chunk: tuple[int, ...]

    def kept(self, level: str) -> tuple[int, ...]:
        """Visual tokens kept of each chunk, mean over layers and heads, which is a whole number.

        Text inside a chunk is always kept and not counted.
        """
        apart = sum(layer.keys.shape[1] for layer in self.prefix.layers)  # heads of all layers
        return tuple(
            kv.entries // apart - (chunk.tokens - chunk.visual_tokens)
            for kv, chunk in zip(self.levels[level], self.prompt.chunks, strict=True)
        )

    def measured_ratio(self, level: str) -> float:
        """Visual tokens in / visual tokens out that was really obtained."""
        return sum(chunk.visual_tokens for chunk in self.prompt.chunks) / sum(self.kept(level))

    def nbytes(self, level: str) -> tuple[int, ...]:
        """Bytes of keys and values of each chunk, as stored."""
        return tuple(kv.nbytes for kv in self.levels[level])

    @property
    def nbytes_host(self) -> int:
        """Bytes of keys and values of all levels that wait on the host."""
        return sum(sum(self.nbytes(level)) for level in self.levels if level not in RESIDENT)

    def reloading(self, selected: Collection[int]) -> tuple[str, ...]:
        """The assignment of the paper: `low` for the selected chunks, `high` for all others."""
        return tuple("low" if c.index in selected else "high" for c in self.prompt.chunks)

    def mix(self, assignment: Sequence[str]) -> Mixed:
        """Joins prefix and chunks, each at the level that `assignment` names for it. Pure.

        Raises:
            ValueError: not one level a chunk, or an unknown level.
        """
        chunks = self.prompt.chunks
        unknown = sorted(set(assignment) - set(self.levels))
        if len(assignment) != len(chunks) or unknown:
            raise ValueError(
                f"assignment={list(assignment)}: must name one of the levels {sorted(self.levels)} "
                f"for each of the {len(chunks)} chunks"
            )
        parts = [
            self.levels[level][chunk.index] for level, chunk in zip(assignment, chunks, strict=True)
        ]
        place = Placement(self.prompt.next_position, self.prompt.video_end)
        if self.positions == "compact":
            parts, place = self._compact(parts)
        counts = zip(self.prefix.tokens, *(part.tokens for part in parts), strict=True)
        spans = tuple(tuple(pairwise(accumulate(count))) for count in counts)
        nbytes = self.prefix.nbytes + sum(part.nbytes for part in parts)
        return Mixed(concat([self.prefix, *parts]), place, spans, nbytes)

    def _compact(self, parts: Sequence[StoredKV]) -> tuple[list[StoredKV], Placement]:
        cursor, closed = first_cursor(self.prompt), []
        for part, chunk in zip(parts, self.prompt.chunks, strict=True):
            layers, ends = [], []
            for layer in part.layers:
                moved, after = compacted(self.prompt, chunk, layer.at(), cursor)
                layers.append(layer.moved(moved))
                ends.append(after)
            cursor = furthest(ends)
            closed.append(StoredKV(tuple(layers)))
        return closed, placement(self.prompt, cursor)
