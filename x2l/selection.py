"""From relevance to the chunks that are re-loaded as L-KVs. One rule for every selector."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from x2l.chunks import Chunk

PINNED = ("first", "last")


def gt_chunks(chunks: Sequence[Chunk], spans: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Ground-truth chunks: those that hold a sampled frame inside one of the annotated spans (the official rule).

    Args:
        chunks: the video's chunks.
        spans: (start, end) in seconds; a frame at `end` is outside. A point in time (start == end) counts for the
            chunk whose seconds hold it.
    """
    hit = []
    for chunk in chunks:
        inside = any(start <= t < end for start, end in spans for t in chunk.frame_seconds)
        point = any(
            start == end and chunk.seconds[0] <= start < chunk.seconds[1] for start, end in spans
        )
        if inside or point:
            hit.append(chunk.index)
    return tuple(hit)


def check_selection(top_k: int | str, pinned: Sequence[str], chunks: int | None = None) -> None:
    """Checks settings before anything runs.

    Raises:
        ValueError: top_k negative, not a number or `gt`, or beyond the number of chunks; an unknown pinned chunk.
    """
    if not (top_k == "gt" or (isinstance(top_k, int) and top_k >= 0)):
        raise ValueError(
            f"top_k={top_k!r}: must be a number of chunks >= 0, or gt (as many as the question needs)"
        )
    if isinstance(top_k, int) and chunks is not None and top_k > chunks:
        raise ValueError(
            f"top_k={top_k}: the video has only {chunks} chunks; "
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
    if top_k == "gt":
        if gt is None:
            raise ValueError(
                "top_k=gt: this benchmark does not say where the answer lies; use a number"
            )
        top_k = len(gt)
    scores = relevance.tolist()
    chosen = {index for index, score in enumerate(scores) if score == float("inf")}
    chosen |= {{"first": 0, "last": chunks - 1}[name] for name in pinned}
    open_chunks = [i for i in range(chunks) if i not in chosen and scores[i] != float("-inf")]
    ranked = sorted(open_chunks, key=lambda index: (-scores[index], index))
    return tuple(sorted(chosen | set(ranked[: int(top_k)])))


def recall_precision(selected: Sequence[int], gt: Sequence[int]) -> tuple[float, float]:
    """Share of ground-truth chunks that are re-loaded, and share of re-loaded chunks that are ground truth.

    NaN where the denominator is empty.
    """
    hits = len(set(selected) & set(gt))
    return (hits / len(gt) if gt else float("nan")), (
        hits / len(selected) if selected else float("nan")
    )
