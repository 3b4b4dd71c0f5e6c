"""What is asked about one pre-filled video is decoded in batches, and answered in the order that it was asked in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from x2l.benchmarks.base import Sample
from x2l.engine.batching import Batching
from x2l.engine.decode import Request
from x2l.evaluation.conditions import Cell
from x2l.evaluation.session import Decoding, Session
from x2l.evaluation.settings import Settings
from x2l.models.out_of_memory import MemoryAdvice, MemoryShortage
from x2l.runs.out_of_memory_log import OutOfMemory
from x2l.runs.records import Record

_Key = tuple[str, tuple[str, ...]]  # a sample's id and an assignment


@dataclass(frozen=True)
class Ask:
    """A question in a cell, whose chunks are chosen.

    Attributes:
        sample: the question.
        cell: that it is answered for.
        request: what is to be decoded.
        record: makes the record of what was.
    """

    sample: Sample
    cell: Cell
    request: Request
    record: Callable[[Decoding], Record]

    @property
    def key(self) -> _Key:
        """Asks with the same one share a decoding and its measurements."""
        return self.sample.id, self.request.assignment


class Answering:
    """Answers what is asked about a video. Final; one for a pre-fill."""

    def __init__(
        self, session: Session, settings: Settings, advice: MemoryAdvice, frames: int
    ) -> None:
        """For a pre-filled video.

        Args:
            session: the pre-fill.
            settings: of the run.
            advice: for where memory runs out.
            frames: of the video.
        """
        self._session, self._advice, self._frames = session, advice, frames
        self._most_tokens, self._batching = settings.max_new_tokens, Batching(settings.batch)
        self._decodings: dict[_Key, Decoding] = {}

    def asked(self, ask: Callable[[], Ask], sample: Sample, cell: Cell) -> Ask | OutOfMemory:
        """What `ask` makes, or what stands in for the record where memory runs out."""
        try:
            with self._explained(sample, cell):
                return ask()
        except MemoryShortage as error:
            return out_of_memory(error, sample, cell, str(self._session.model.device))

    def answers(self, asks: Iterator[Ask | OutOfMemory]) -> Iterator[Record | OutOfMemory]:
        """A record for each, or what stands in for it; in order, a batch at a time.

        An error of `asks` is raised when all that came before it is answered.
        """
        waiting: list[Ask | OutOfMemory] = []
        undecoded: set[_Key] = set()
        try:
            for ask in asks:
                waiting.append(ask)
                if isinstance(ask, Ask) and ask.key not in self._decodings:
                    undecoded.add(ask.key)
                if len(undecoded) >= self._batching.most:
                    batch, waiting, undecoded = waiting, [], set()
                    yield from self._answered(batch)
        except Exception:
            yield from self._answered(waiting)
            raise
        yield from self._answered(waiting)

    def _answered(self, asks: Sequence[Ask | OutOfMemory]) -> Iterator[Record | OutOfMemory]:
        """What fails in a batch is decoded once more when its turn comes, and fails there as it does alone."""
        requests = {
            ask.key: ask.request
            for ask in asks
            if isinstance(ask, Ask) and ask.key not in self._decodings
        }
        if len(requests) > 1:
            decoded = self._session.decode_together(
                list(requests.values()), self._most_tokens, self._batching
            )
            keys = list(requests)
            self._decodings |= {keys[index]: decoding for index, decoding in decoded.items()}
        for ask in asks:
            yield self._answer(ask) if isinstance(ask, Ask) else ask
        if asks and isinstance(last := asks[-1], Ask):  # other cells of its question may follow
            of_last = (key for key in self._decodings if key[0] == last.sample.id)
            self._decodings = {key: self._decodings[key] for key in of_last}

    def _answer(self, ask: Ask) -> Record | OutOfMemory:
        try:
            with self._explained(ask.sample, ask.cell):
                if ask.key not in self._decodings:
                    self._decodings[ask.key] = self._session.decode(
                        ask.request.question, ask.request.assignment, self._most_tokens
                    )
                return ask.record(self._decodings[ask.key])
        except MemoryShortage as error:
            return out_of_memory(error, ask.sample, ask.cell, str(self._session.model.device))

    def _explained(self, sample: Sample, cell: Cell) -> AbstractContextManager[None]:
        return self._advice.explained(
            f"answering {sample.id} for {cell.condition.label}", self._frames
        )


def out_of_memory(error: MemoryShortage, sample: Sample, cell: Cell, device: str) -> OutOfMemory:
    """What stands in for the record of a cell that ran out of memory."""
    return OutOfMemory(
        condition=cell.condition,
        sample_id=sample.id,
        video_id=sample.video_id,
        task=sample.task,
        tags=dict(sample.tags),
        stage=error.stage,
        requested_bytes=error.requested_bytes,
        device=device,
        error=str(error),
    )
