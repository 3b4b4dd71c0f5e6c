"""Summary tokens: extra tokens between a chunk's own, whose KVs stand for the chunk. Only models trained for it can.

Video-XL (Shu et al., arXiv 2409.14485) calls them visual summary tokens (VST). Where they stand, and what is carried
from chunk to chunk, is that of the official code (Video-X2L 3134dc5b, `modeling_beacon.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.compressors.base import Method


@dataclass(frozen=True)
class Insertion:
    """Where the summary tokens of one chunk stand.

    Attributes:
        count: of them, `n`.
        first: index of the first one in the window of tokens and summary tokens, T + n long.
        distance: indices from one to the next.
    """

    count: int
    first: int
    distance: int

    @property
    def at(self) -> Tensor:
        """Indices in the window, `(n,)`."""
        return self.first + self.distance * torch.arange(self.count)

    @property
    def behind(self) -> Tensor:
        """The chunk's own token that each one stands behind, `(n,)`; the first where none stands before it."""
        return (self.at - torch.arange(self.count) - 1).clamp(min=0)


class Summariser(Method):
    """Abstract: the other kind of method. KVs of extra tokens are kept, all others of the chunk are forgotten."""

    same_in_all_layers = True

    @abstractmethod
    def plan(self, chunks: Sequence[int], ratio: float) -> tuple[Insertion, ...]:
        """Where summary tokens stand in each chunk of one pass.

        Args:
            chunks: visual tokens of all chunks of the video, in time order.
            ratio: tokens for one summary token.

        Raises:
            ValueError: chunks that this does not fit; names method, value, rule and remedy.
        """

    def counts(self, chunks: Sequence[int], ratio: float) -> tuple[int, ...]:
        """The same number in every layer."""
        return tuple(insertion.count for insertion in self.plan(chunks, ratio))


@dataclass(frozen=True)
class SummaryTokens(Summariser):
    """One summary token behind every `ratio` visual tokens, counted on across chunks: what is left over is carried.

    Attributes:
        edge_ratio: that of the first and the last chunk of every pass, whatever the level's is; 2 is the official
            code's rule, which its authors switched on and off between runs. None = no such rule. Not the same as
            pinned chunks: later chunks of the pass see a first chunk at this ratio.
    """

    edge_ratio: int | None = None
    name: str = "vst"

    def __post_init__(self) -> None:
        """Checks the field.

        Raises:
            ValueError: a ratio that no chunk can have.
        """
        if self.edge_ratio is not None and not _is_whole(self.edge_ratio):
            raise ValueError(
                f"compressor.edge_ratio={self.edge_ratio}: must be a whole number of at least 2, or null for none"
            )

    def check_ratio(self, ratio: float) -> None:
        """Summary tokens stand behind whole numbers of tokens, and never keep what they stand for.

        Raises:
            ValueError: not a whole number, or 1.
        """
        if not _is_whole(ratio):
            raise ValueError(
                f"levels.*.ratio={ratio}: must be a whole number of at least 2 for compressor vst, tokens for one "
                "summary token; for uncompressed KVs use another compressor at ratio 1"
            )

    def plan(self, chunks: Sequence[int], ratio: float) -> tuple[Insertion, ...]:
        """The official placement; also where the official code fails, which is refused."""
        insertions, carried = [], 0
        for index, tokens in enumerate(chunks):
            at_edge = self.edge_ratio is not None and index in (0, len(chunks) - 1)
            every = int(self.edge_ratio if at_edge and self.edge_ratio is not None else ratio)
            if carried > every:
                raise ValueError(
                    f"compressor vst: {carried} visual tokens are left over before chunk {index}, which has ratio "
                    f"{every}: must be at most that many; use ratios that divide the {chunks[0]} visual tokens of a "
                    "chunk, or edge_ratio=null"
                )
            count, left = divmod(tokens + carried, every)
            if not count:
                raise ValueError(
                    f"compressor vst: ratio={every} leaves no summary token to chunk {index} of {tokens} visual "
                    f"tokens: must be at most {tokens + carried}; use a lower ratio, or another prefill.chunk_frames"
                )
            insertions.append(Insertion(count, every - carried, every + 1))
            carried = left
        return tuple(insertions)


def _is_whole(ratio: float) -> bool:
    return ratio >= 2 and float(ratio).is_integer()
