"""What is asked about one pre-filled video is decoded in batches, and comes in the order that it was asked in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from x2l.engine.batching import Batching
from x2l.engine.decode import Request
from x2l.evaluation.session import Decoding, Session

T = TypeVar("T")
_Key = tuple[str, tuple[str, ...]]  # a question's words and an assignment


def in_batches(
    session: Session,
    asks: Iterable[T],
    request_of: Callable[[T], Request | None],
    max_new_tokens: int,
    batch: int | str,
) -> Iterator[tuple[T, Callable[[], Decoding] | None]]:
    """Every ask with a function that gives its decoding, which was made with those of other asks.

    Asks are taken until there is a batch of them, or no more. An error of `asks` is raised when all that came before it
    have been yielded. What failed in a batch is decoded once more, alone, by its function, which raises what is wrong.

    Args:
        session: the pre-fill.
        asks: anything.
        request_of: what is to be decoded for an ask; None = nothing. Equal requests that follow each other share one
            decoding and its measurements.
        max_new_tokens: of an answer, at most.
        batch: decoded together, at most, or `auto`: what memory holds.
    """
    decoder = _Decoder(session, max_new_tokens, Batching(batch))
    waiting: list[tuple[T, Request | None]] = []
    try:
        for ask in asks:
            waiting.append((ask, request_of(ask)))
            if decoder.has_batch(waiting[-1][1]):
                ready, waiting = waiting, []
                yield from decoder.decoded(ready)
    except Exception:
        yield from decoder.decoded(waiting)
        raise
    yield from decoder.decoded(waiting)


class _Decoder:
    """Decodings by what was asked: those of the last question, and of what is yielded now."""

    def __init__(self, session: Session, max_new_tokens: int, batching: Batching) -> None:
        self._session, self._most_tokens, self._batching = session, max_new_tokens, batching
        self._decodings: dict[_Key, Decoding] = {}
        self._missing: dict[_Key, Request] = {}

    def has_batch(self, request: Request | None) -> bool:
        """Takes note of a request; whether there are enough of them now."""
        if request is not None and (key := _key(request)) not in self._decodings:
            self._missing[key] = request
        return len(self._missing) >= self._batching.most

    def decoded(
        self, asks: Sequence[tuple[T, Request | None]]
    ) -> Iterator[tuple[T, Callable[[], Decoding] | None]]:
        """All that is missing, at once."""
        missing, self._missing = self._missing, {}
        if len(missing) > 1:
            made = self._session.decode_together(
                list(missing.values()), self._most_tokens, self._batching
            )
            keys = list(missing)
            self._decodings |= {keys[index]: decoding for index, decoding in made.items()}
        for ask, request in asks:
            yield ask, None if request is None else self._of(request)
        if asks and (last := asks[-1][1]) is not None:  # other choices of its chunks may follow
            of_last = (key for key in self._decodings if key[0] == last.question.text)
            self._decodings = {key: self._decodings[key] for key in of_last}

    def _of(self, request: Request) -> Callable[[], Decoding]:
        def decoding() -> Decoding:
            key = _key(request)
            if key not in self._decodings:
                question, assignment = request.question, request.assignment
                alone = self._session.decode(question, assignment, self._most_tokens)
                self._decodings[key] = alone
            return self._decodings[key]

        return decoding


def _key(request: Request) -> _Key:
    return request.question.text, request.assignment
