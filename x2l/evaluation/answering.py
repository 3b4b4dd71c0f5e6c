"""The records of what is asked about one pre-filled video, or what stands in for them where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from x2l.benchmarks.base import Sample
from x2l.engine.decode import Request
from x2l.evaluation.batches import in_batches
from x2l.evaluation.conditions import Cell
from x2l.evaluation.session import Decoding, Session
from x2l.evaluation.settings import Settings
from x2l.models.out_of_memory import MemoryAdvice, MemoryShortage
from x2l.runs.out_of_memory_log import OutOfMemory
from x2l.runs.records import Record


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


@dataclass(frozen=True)
class Answering:
    """Answers what is asked about a pre-filled video. Final.

    Attributes:
        session: the pre-fill.
        settings: of the run.
        advice: for where memory runs out.
        frames: of the video.
    """

    session: Session
    settings: Settings
    advice: MemoryAdvice
    frames: int

    def asked(self, ask: Callable[[], Ask], sample: Sample, cell: Cell) -> Ask | OutOfMemory:
        """What `ask` makes, or what stands in for the record where memory runs out."""
        try:
            with self._explained(sample, cell):
                return ask()
        except MemoryShortage as error:
            return out_of_memory(error, sample, cell, str(self.session.model.device))

    def answers(self, asks: Iterator[Ask | OutOfMemory]) -> Iterator[Record | OutOfMemory]:
        """A record for each, or what stands in for it; in order, see `in_batches`."""
        most, batch = self.settings.max_new_tokens, self.settings.batch
        for ask, decoding in in_batches(self.session, asks, _request, most, batch):
            if isinstance(ask, OutOfMemory):
                yield ask
            else:
                assert decoding is not None
                yield self._answer(ask, decoding)

    def _answer(self, ask: Ask, decoding: Callable[[], Decoding]) -> Record | OutOfMemory:
        try:
            with self._explained(ask.sample, ask.cell):
                return ask.record(decoding())
        except MemoryShortage as error:
            return out_of_memory(error, ask.sample, ask.cell, str(self.session.model.device))

    def _explained(self, sample: Sample, cell: Cell) -> AbstractContextManager[None]:
        return self.advice.explained(
            f"answering {sample.id} for {cell.condition.label}", self.frames
        )


def _request(ask: Ask | OutOfMemory) -> Request | None:
    return ask.request if isinstance(ask, Ask) else None


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
