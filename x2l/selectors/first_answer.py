"""What the model would say first, over a mixed cache: for selectors that ask it outright."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from x2l.engine.decode import ask
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
    assignment: Sequence[str | None],
) -> Tensor:
    """Logits of the first answer token, `(vocabulary,)`, fp64, on the host.

    The meter counts stage `selection`, and the bytes of chunks that come from the host.
    """
    mixed, count = store.mix(assignment), len(question.input_ids)
    cache = model.load_cache(mixed.kv, reserve=count)
    logits = ask(model, cache, question, mixed.place)
    meter.add("selection", question_flops(model.shape, mixed.mean_tokens, count))
    meter.streamed_bytes += sum(
        store.nbytes(level)[chunk]
        for chunk, level in enumerate(assignment)
        if level is not None and level != store.coarsest
    )
    return logits.cpu().double()


def log_odds(logits: Tensor, model: VideoModel, words: tuple[str, str]) -> float:
    """Logit of one word's first token less that of another's.

    Raises:
        ValueError: the model's tokenizer begins both words alike.
    """
    one, other = (int(model.text_tokens(word)[0]) for word in words)
    if one == other:
        raise ValueError(
            f"selector: the model's tokenizer begins {words[0]!r} and {words[1]!r} with the same token, so that its "
            "answer cannot be told from it; use another selector with this model"
        )
    return float(logits[one] - logits[other])
