"""How many answers are decoded together: caches of like length, as many as memory holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from x2l.engine.context_length import ContextError
from x2l.models.interface import NotFiniteError
from x2l.models.kv_cache import Buffers
from x2l.models.out_of_memory import is_out_of_memory, let_go

MOST = 64  # what `auto` decodes together where memory holds more
R = TypeVar("R")


class Batching:
    """Runs what there is in batches, smaller ones once memory ran out. Final; one for a video.

    Attributes:
        most: of a batch.
        buffers: that one batch after another uses.
    """

    def __init__(self, batch: int | str) -> None:
        """For at most `batch` at once, or `auto`."""
        self.most = MOST if isinstance(batch, str) else batch
        self.buffers = Buffers()

    def run(
        self,
        run: Callable[[list[int]], Sequence[R]],
        lengths: Sequence[int],
        most_tokens: int | None,
    ) -> dict[int, R]:
        """What `run` makes of some indices, one each, by index.

        A batch for which it fails is tried again in halves. What it fails for alone is left out: memory ran out, logits
        are no numbers, or the context is too short.

        Args:
            run: of indices into `lengths`.
            lengths: in tokens.
            most_tokens: of a batch; None = no limit.
        """
        made: dict[int, R] = {}
        waiting = groups(lengths, self.most, most_tokens)
        while waiting:
            together = waiting.pop(0)
            results = self._tried(run, together) if len(together) <= self.most else None
            if results is not None:
                made |= dict(zip(together, results, strict=True))
            elif len(together) > 1:
                middle = len(together) // 2
                waiting[:0] = [together[:middle], together[middle:]]
        return made

    def _tried(
        self, run: Callable[[list[int]], Sequence[R]], indices: list[int]
    ) -> Sequence[R] | None:
        try:
            return run(indices)
        except (NotFiniteError, ContextError):
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
            self.most = max(1, len(indices) // 2)
            return None


def groups(lengths: Sequence[int], most: int, most_tokens: int | None) -> list[list[int]]:
    """Indices of what is run together, every one once; the longest first.

    Members are filled up to the longest of a group, so that none is less than half as long.

    Args:
        lengths: of each, in tokens.
        most: of a group.
        most_tokens: of a group, filled up; one alone may be longer. None = no limit.
    """
    made: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        last = made[-1] if made else []
        longest = lengths[last[0]] if last else 0
        fits = most_tokens is None or longest * (len(last) + 1) <= most_tokens
        if last and len(last) < most and fits and 2 * lengths[index] >= longest:
            last.append(index)
        else:
            made.append([index])
    return made
