"""From relevance to the chunks that are re-loaded as L-KVs. One rule for every selector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from x2l.models.prompt import Chunk

PINNED = ("first", "last")
GT, TASK = "gt", "task"  # top_k: as many as the question needs; as many as its task was given


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


def check_selection(
    top_k: int | str, pinned: Sequence[str], chunks: int | None = None, field: str = "top_k"
) -> None:
    """Checks settings before anything runs.

    Args:
        top_k: a number of chunks, `gt` or `task`.
        pinned: names of chunks.
        chunks: how many a video has, where that is known.
        field: what errors call `top_k`.

    Raises:
        ValueError: top_k negative, not a number or a word, or beyond the number of chunks; an unknown pinned chunk.
    """
    if not (top_k in (GT, TASK) or (isinstance(top_k, int) and top_k >= 0)):
        raise ValueError(
            f"{field}={top_k!r}: must be a number of chunks >= 0, gt (as many as the question needs) "
            "or task (what selection.top_k_by_task says)"
        )
    if isinstance(top_k, int) and chunks is not None and top_k > chunks:
        raise ValueError(
            f"{field}={top_k}: the video has only {chunks} chunks; "
            f"use top_k <= {chunks}, more video.frames, or a smaller prefill.chunk_frames"
        )
    unknown = [name for name in pinned if name not in PINNED]
    if unknown:
        raise ValueError(f"selection.pinned={unknown}: must be among {list(PINNED)}")


def select(
    relevance: Tensor, top_k: int | str, pinned: Sequence[str] = (), gt: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The chunks to re-load, in time order.

    Args:
        relevance: `(chunks,)`; +inf = always re-loaded, -inf = never (unless pinned). Ties go to the earlier chunk.
        top_k: how many of the rest; `gt` = as many as there are ground-truth chunks.
        pinned: `first`, `last`: always re-loaded, on top of top_k (the official code pins both).
        gt: ground-truth chunks; only `gt` needs them.

    Raises:
        ValueError: settings that cannot work, or NaN in the relevance.
    """
    chunks = len(relevance)
    check_selection(top_k, pinned, chunks)
    if relevance.isnan().any():
        raise ValueError(f"relevance holds NaN: {relevance.tolist()}")
    if top_k == GT:
        if gt is None:
            raise ValueError(
                "top_k=gt: this benchmark does not say where the answer lies; use a number"
            )
        top_k = len(gt)
    scores = relevance.tolist()
    chosen = {index for index, score in enumerate(scores) if score == float("inf")}
    chosen |= {{"first": 0, "last": chunks - 1}[name] for name in pinned}
    ranked = [index for index in _ranked(scores) if index not in chosen]
    return tuple(sorted(chosen | set(ranked[: int(top_k)])))


def select_bytes(relevance: Tensor, sizes: Sequence[int], budget: int) -> tuple[int, ...]:
    """The chunks to re-load, in time order, so that their bytes come as near to a budget as whole chunks allow.

    Chunks are tried in order of relevance; each is taken if that brings the sum nearer to the budget.

    Args:
        relevance: `(chunks,)`; -inf = never.
        sizes: bytes of each chunk's L-KVs.
        budget: bytes.
    """
    taken: list[int] = []
    left = budget
    for index in _ranked(relevance.tolist()):
        if abs(left - sizes[index]) < abs(left):
            taken.append(index)
            left -= sizes[index]
    return tuple(sorted(taken))


def _ranked(scores: Sequence[float]) -> list[int]:
    """Chunks that may be taken, most relevant first; ties go to the earlier one."""
    allowed = [index for index, score in enumerate(scores) if score != float("-inf")]
    return sorted(allowed, key=lambda index: (-scores[index], index))


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


def truth_scores(selected: Sequence[int], gt: Sequence[int]) -> TruthScores:
    """Scores of a choice of chunks against the ground truth."""
    hits = len(set(selected) & set(gt))
    return TruthScores(
        recall=hits / len(gt) if gt else float("nan"),
        precision=hits / len(selected) if selected else float("nan"),
        hit=float(hits > 0) if gt else float("nan"),
    )
