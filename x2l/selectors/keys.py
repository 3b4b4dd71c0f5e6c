"""The question's queries against the chunks' keys: of heads found by calibration, or of all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from x2l.engine.kv_store import LevelKeys
from x2l.models.interface import VideoModel
from x2l.selectors.head_keys import POOLS, Combine, Pool, rotated_keys
from x2l.selectors.keyed import KeyedSelector


@dataclass(frozen=True)
class KeysSelector(KeyedSelector):
    """Scaled products of the question's queries and a chunk's keys, without a softmax over the context. Final.

    With heads: the mean over them of the maximum over the question's tokens and the chunk's keys. Without: log of the
    summed exps over the chunk's keys, put on a scale of mean 0 and deviation 1 over chunks for every head and token,
    and the maximum of these. x2l's own; heads that find things are those of the retrieval-head papers (Wu et al., arXiv
    2404.15574; MMRetHead, arXiv 2605.27243, from which `null_question`).

    Attributes:
        pool: `max`, `lse` or `mean` over a chunk's keys; None = `max` with heads, `lse` without.
    """

    pool: Pool | None = None
    name: str = "keys"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_words({"pool": (None, *POOLS)})

    @override
    def vectors_of(self, keys: LevelKeys, model: VideoModel) -> tuple[Tensor, tuple[int, ...]]:
        return rotated_keys(keys, model, self.rope), keys.counts

    @property
    @override
    def rule(self) -> tuple[Pool, Combine]:
        pool: Pool = "lse" if self.heads is None else "max"
        return self.pool or pool, self.combine or ("z_max" if self.heads is None else "max")
