"""Ground-truth chunks, where a benchmark says that the answer lies, and how well a choice of chunks hits them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from x2l.models.prompt import Chunk


def gt_chunks(chunks: Sequence[Chunk], spans: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Ground-truth chunks: those that hold a sampled frame inside one of the annotated spans (the official rule).

    A span that falls between two sampled frames, or a point in time, has no frame inside: it counts for the chunks
    whose seconds it overlaps. One that begins where the video ends counts for the last chunk, a later one for none.

    Args:
        chunks: the video's chunks.
        spans: (start, end) in seconds; a frame at `end` is outside.
    """
    hit: set[int] = set()
    for start, end in spans:
        inside = {c.index for c in chunks if any(start <= t < end for t in c.frame_seconds)}
        hit |= inside or {c.index for c in chunks if _overlaps(c, start, end)}
        if start == chunks[-1].seconds[1]:
            hit.add(chunks[-1].index)
    return tuple(sorted(hit))


def _overlaps(chunk: Chunk, start: float, end: float) -> bool:
    first, after = chunk.seconds
    return first <= start < after or start < first < end


@dataclass(frozen=True)
class TruthScores:
    """How well re-loaded chunks match the ground truth; NaN where the denominator is empty.

    Attributes:
        recall: share of ground-truth chunks that are re-loaded.
        precision: share of re-loaded chunks that are ground truth.
        hit: 1 if at least one ground-truth chunk is re-loaded, else 0; its mean is the hit rate.
    """

    recall: float
    precision: float
    hit: float


def scene_hit(
    chunks: Sequence[Chunk],
    spans: Sequence[tuple[float, float]],
    scenes: Sequence[Hashable],
    selected: Collection[int],
) -> float:
    """Share of the annotated scenes of which a chunk is re-loaded: KFS-Bench's scene hit rate, by chunks.

    Args:
        chunks: the video's chunks.
        spans: (start, end) in seconds.
        scenes: of each span the scene that it is a part of.
        selected: re-loaded chunks.

    Returns:
        The share among scenes that lie in the video; NaN where none does.
    """
    parts: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for span, scene in zip(spans, scenes, strict=True):
        parts[scene].append(span)
    truths = [truth for of in parts.values() if (truth := gt_chunks(chunks, of))]
    hits = sum(not set(selected).isdisjoint(truth) for truth in truths)
    return hits / len(truths) if truths else float("nan")


def truth_scores(selected: Sequence[int], gt: Sequence[int]) -> TruthScores:
    """Scores of a choice of chunks against the ground truth."""
    hits = len(set(selected) & set(gt))
    return TruthScores(
        recall=hits / len(gt) if gt else float("nan"),
        precision=hits / len(selected) if selected else float("nan"),
        hit=float(hits > 0) if gt else float("nan"),
    )
