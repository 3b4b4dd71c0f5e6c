"""How far a loop is: a bar where somebody watches, a line now and then where a log is kept."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress:
    """Counts steps. A tqdm bar on a terminal; elsewhere a log line with the time left."""

    def __init__(
        self, total: int, label: str, unit: str = "step", every: float = 15.0, leave: bool = True
    ) -> None:
        """Starts at zero.

        Args:
            total: steps in all.
            label: what is counted.
            unit: of a step, for the bar.
            every: seconds between log lines; a loop that is done sooner says nothing.
            leave: whether a finished bar stays.
        """
        self.total, self.label, self.every = total, label, every
        self._done = 0
        self._started = self._told = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit=unit, leave=leave)

    def advance(self, steps: int = 1) -> None:
        """Counts `steps` more."""
        self._done += steps
        if self._bar is not None:
            self._bar.update(steps)
            return
        now = time.monotonic()
        if now - self._told >= self.every:
            self._told = now
            left = (now - self._started) / self._done * (self.total - self._done)
            log.info("%s %d/%d, about %.0f s left", self.label, self._done, self.total, left)

    def at(self, done: int, total: int) -> None:
        """Sets both numbers: for who is told them (`prefill`, `Benchmark.prepare`)."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total
        self.advance(done - self._done)

    def __enter__(self) -> "Progress":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
