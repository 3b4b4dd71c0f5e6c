"""Items of an iterator, made by a worker thread while the last one is used."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
MOST_WAITING = 2  # items that are made and not yet taken


@contextmanager
def ahead(items: Iterator[T], most: int = MOST_WAITING) -> Iterator[Iterator[T]]:
    """Inside, the same items in the same order, up to `most` of them made beforehand by a thread.

    An error in the thread is raised where its item would have come. However the block is left, the thread has ended
    then: it finishes the item that it is at, and makes no more.

    Args:
        items: used by the thread alone; closed by it where it is a generator.
        most: items that may wait.
    """
    worker = _Worker(items, most)
    worker.thread.start()
    try:
        yield worker
    finally:
        worker.close()


class _Worker(Iterator[T], Generic[T]):
    """The thread, and the queue between it and who takes the items."""

    def __init__(self, items: Iterator[T], most: int) -> None:
        self._items, self._most = items, most
        self._made: deque[T] = deque()
        self._change = threading.Condition()
        self._closed = self._ended = False
        self._error: BaseException | None = None
        # A daemon, so that a second Ctrl-C while it is waited for ends the process.
        self.thread = threading.Thread(target=self._run, name="x2l-ahead", daemon=True)

    def _run(self) -> None:
        try:
            for item in self._items:
                with self._change:
                    self._made.append(item)
                    del item
                    self._change.notify_all()
                    self._change.wait_for(lambda: self._closed or len(self._made) < self._most)
                    if self._closed:
                        break
        except BaseException as error:  # noqa: BLE001 - raised where the item would have come
            self._error = error
        finally:
            if (close := getattr(self._items, "close", None)) is not None:
                close()
            with self._change:
                self._ended = True
                self._change.notify_all()

    def __next__(self) -> T:
        with self._change:
            self._change.wait_for(lambda: self._made or self._ended)
            if self._made:
                self._change.notify_all()
                return self._made.popleft()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._made.clear()
            self._change.notify_all()
        self.thread.join()
