"""The library's own words for a session: pre-fill a video, ask it, read the reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from x2l.compressors.base import Level
from x2l.engine.decode import Request
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.flops import answer_flops
from x2l.engine.stages import QUESTION_STAGES
from x2l.engine.taking import TOP, TakingRule, taking_rule
from x2l.evaluation.batches import in_batches
from x2l.evaluation.session import Decoding, Rating, Session, open_session
from x2l.evaluation.settings import config_errors
from x2l.frames import SampledFrames
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query
from x2l.selectors.keys import KeysSelector


@dataclass(frozen=True)
class Reply:
    """The answer to one question, and what it took.

    Attributes:
        question: the user's words.
        text: the answer, special tokens left out.
        token_ids: generated tokens, the end token included.
        cut_off: whether it was ended by `max_new_tokens`, not by the model.
        relevance: of every chunk; not finite where a selector rules a chunk in or out without rating it.
        assigned: the level of every chunk.
        reloaded: chunks at any level but the coarsest, rising.
        kv_bytes_stored: of the mixed cache that the answer was decoded from, as its parts are stored.
        kv_bytes_attended: of the decoded copy that attention reads.
        kv_bytes_reloaded: of it, brought back from the host.
        flops: closed form, by stage: selection, reload, decode.
        flops_full: of the same question and answer over uncompressed KVs, without selection.
        seconds: measured, by stage.
    """

    question: str
    text: str
    token_ids: tuple[int, ...]
    cut_off: bool
    relevance: tuple[float, ...]
    assigned: tuple[str, ...]
    reloaded: tuple[int, ...]
    kv_bytes_stored: int
    kv_bytes_attended: int
    kv_bytes_reloaded: int
    flops: Mapping[str, int]
    flops_full: int
    seconds: Mapping[str, float]


def prefill(
    model: VideoModel,
    frames: SampledFrames,
    levels: Mapping[str, Level],
    chunk_frames: int = 8,
    context: str = "full",
    positions: str = "keep",
    seed: int = 0,
    selectors: Sequence[ChunkSelector] = (),
    cache: PrefillCache | None = None,
) -> Session:
    """Pre-fills a video at every level.

    Args:
        model: from `load`.
        frames: from `open_frames`, which decodes while the model computes, or `read_frames`.
        levels: two or more by name, e.g. `{"low": Level(ToMe(), 2), "high": Level(ToMe(), 32)}`; sorted by ratio.
        chunk_frames: frames of a chunk, a multiple of the model's temporal patch.
        context: what later chunks attend to: `full`, `own` or a level's name.
        positions: `keep`, or `compact` (closes the gaps that compression leaves).
        seed: for methods that draw at random.
        selectors: those that look at frames (`FrameSelector`) or keep an index (`IndexingSelector`); others need not
            be named.
        cache: where pre-fills are kept, if they are.

    Raises:
        ConfigError: settings that cannot work.
        ContextError: the video is longer than the model's context.
    """
    finest_first = dict(sorted(levels.items(), key=lambda item: item[1].ratio))
    with config_errors():
        prompt = model.prompt(frames, chunk_frames)
    named = {selector.name: selector for selector in selectors}
    return open_session(model, frames, prompt, finest_first, context, positions, seed, named, cache)


def answer(
    session: Session,
    question: str,
    selector: ChunkSelector | None = None,
    top_k: int | str = 2,
    pinned: Sequence[str] = (),
    max_new_tokens: int = 128,
    taking: str = TOP,
    seed: int = 0,
) -> Reply:
    """Answers one question from the pre-fill: rates the chunks, re-loads the most relevant ones, decodes greedily.

    Args:
        session: from `prefill`.
        question: the user's words.
        selector: rates the chunks; None: `KeysSelector`, the default of `x2l` (conf/config.yaml).
        top_k: chunks re-loaded at the finest level, a ladder such as `2+4`, or a budget such as `12%` or `64MB`.
        pinned: `first`, `last`: chunks always re-loaded.
        max_new_tokens: at most that many tokens.
        taking: which of the rated chunks are taken, e.g. `gumbel:0.8`; see `engine/taking.py`.
        seed: of rules that draw.

    Raises:
        ConfigError: a question that cannot be asked, or a top_k that cannot work.
        ContextError: question and answer do not fit the model's context.
    """
    asked = answers(session, [question], selector, top_k, pinned, max_new_tokens, taking, seed)
    (reply,) = asked
    return reply


def answers(
    session: Session,
    questions: Iterable[str],
    selector: ChunkSelector | None = None,
    top_k: int | str = 2,
    pinned: Sequence[str] = (),
    max_new_tokens: int = 128,
    taking: str = TOP,
    seed: int = 0,
    batch: int | str = "auto",
) -> Iterator[Reply]:
    """Answers several questions, decoded together; arguments and errors are those of `answer`.

    An error comes when the questions before it are answered. Seconds are each question's share of all, see
    `engine.decode.answers`.

    Args:
        session: from `prefill`.
        questions: the user's words.
        selector: see `answer`.
        top_k: see `answer`.
        pinned: see `answer`.
        max_new_tokens: of each answer, at most.
        taking: see `answer`.
        seed: see `answer`.
        batch: questions decoded together, at most; `auto`: what memory holds.
    """
    rating = selector or KeysSelector.load()
    with config_errors():
        rule = taking_rule(taking, seed, "taking")
    asks = (
        _ask(session, question, rating, top_k, pinned, max_new_tokens, rule)
        for question in questions
    )
    for ask, decoding in in_batches(session, asks, lambda ask: ask.request, max_new_tokens, batch):
        assert decoding is not None
        yield _reply(session, ask, decoding(), max_new_tokens)


@dataclass(frozen=True)
class _Ask:
    """A question whose chunks are chosen."""

    words: str
    rating: Rating
    request: Request


def _ask(
    session: Session,
    words: str,
    selector: ChunkSelector,
    top_k: int | str,
    pinned: Sequence[str],
    max_new_tokens: int,
    rule: TakingRule,
) -> _Ask:
    tokens = session.question(words, max_new_tokens)
    query = Query(tokens, words, text=words, video=session.path)
    rating = session.rate(selector.name, selector, query)
    with config_errors():
        assignment = session.assign(rating.relevance, top_k, pinned, taking=rule, key=words)
    return _Ask(words, rating, Request(tokens, assignment))


def _reply(session: Session, ask: _Ask, decoding: Decoding, max_new_tokens: int) -> Reply:
    model, store, assignment = session.model, session.store, ask.request.assignment
    said, meters = decoding.answer, (ask.rating.meter, decoding.meter)
    generated, question_tokens = len(said.token_ids), len(ask.request.question.input_ids)
    return Reply(
        question=ask.words,
        text=said.text,
        token_ids=said.token_ids,
        cut_off=generated == max_new_tokens and said.token_ids[-1] not in model.end_tokens,
        relevance=tuple(ask.rating.relevance.tolist()),
        assigned=assignment,
        reloaded=tuple(i for i, level in enumerate(assignment) if level != store.coarsest),
        kv_bytes_stored=said.kv_bytes_stored,
        kv_bytes_attended=said.kv_bytes_attended,
        kv_bytes_reloaded=said.kv_bytes_reloaded,
        flops={stage: sum(meter.flops[stage] for meter in meters) for stage in QUESTION_STAGES},
        flops_full=answer_flops(model.shape, store.prompt.tokens, question_tokens, generated),
        seconds={stage: sum(m.seconds[stage] for m in meters) for stage in QUESTION_STAGES},
    )
