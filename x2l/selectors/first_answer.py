"""What the model would say first, over a mixed cache: for selectors that ask it outright."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from x2l.engine.decode import ask_rows
from x2l.engine.flops import question_flops
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.models.prompt import Question


def first_logits(
    question: Question,
    store: KVStore,
    model: VideoModel,
    meter: Meter,
    assignments: Sequence[Sequence[str | None]],
    batch: int = 1,
) -> Tensor:
    """Logits of the first answer token over each of some mixed caches, `(caches, vocabulary)`, fp64, on the host.

    Args:
        question: the same for all.
        store: of the video.
        model: the model.
        meter: counts stage `selection`, and the bytes of chunks that come from the host.
        assignments: of each cache, as in `KVStore.mix`.
        batch: caches that are in memory, and run, at once.
    """
    count, logits = len(question.input_ids), []
    for start in range(0, len(assignments), batch):
        mixed = store.mix_rows(assignments[start : start + batch])
        cache = model.load_rows(mixed.layers(), mixed.rows, reserve=count)
        rows = ask_rows(model, cache, [question] * len(mixed.places), mixed.places)
        logits.append(rows.cpu().double())
        for tokens in mixed.mean_tokens:
            meter.add("selection", question_flops(model.shape, tokens, count))
    streamed = [level for level in store.levels if level != store.coarsest]
    sizes = {level: store.nbytes(level) for level in streamed}
    meter.streamed_bytes += sum(
        sizes[level][chunk]
        for assignment in assignments
        for chunk, level in enumerate(assignment)
        if level in sizes
    )
    return torch.cat(logits)


def log_odds(logits: Tensor, model: VideoModel, words: tuple[str, str]) -> Tensor:
    """Logit of one word's first token less that of another's, `(caches,)` of `(caches, vocabulary)`.

    Raises:
        ValueError: the model's tokenizer begins both words alike.
    """
    one, other = (int(model.text_tokens(word)[0]) for word in words)
    if one == other:
        raise ValueError(
            f"selector: the model's tokenizer begins {words[0]!r} and {words[1]!r} with the same token, so that its "
            "answer cannot be told from it; use another selector with this model"
        )
    return logits[:, one] - logits[:, other]
