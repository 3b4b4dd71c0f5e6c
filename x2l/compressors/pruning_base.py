"""Pruning: keep some KVs, drop the others. A new method is a subclass of `ScoredPruning` with one `score`."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from x2l.compressors.base import Compressor, Observation, Sizes
from x2l.kv import LayerKV


class Pruning(Compressor):
    """Abstract: keeps some KVs as they are."""

    @abstractmethod
    def chosen(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Indices of the KVs to keep, ascending: `(keep,)` for all heads alike, or `(H, keep)`.

        Raises:
            ValueError: a window, sink or lag does not fit `keep` of this chunk's tokens.
        """

    @override
    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        return kv.take(self.chosen(kv, obs, keep))


class RankedPruning(Pruning):
    """Abstract: keeps, head by head, the KVs of highest importance, which may depend on how many are kept."""

    @abstractmethod
    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Importance `(H, T)`; higher = keep.

        Raises:
            ValueError: a window, sink or lag does not fit `keep` of this chunk's tokens.
        """

    def chosen(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Those of highest importance, head by head."""
        scores = self.importance(kv, obs, keep)
        expected = (kv.keys.shape[1], kv.tokens)
        if tuple(scores.shape) != expected or scores.isnan().any():
            raise ValueError(
                f"{self.name}: score gave {tuple(scores.shape)} (NaN: {bool(scores.isnan().any())}); "
                f"must give {expected} without NaN"
            )
        # Stable: ties go to the earlier token on every machine. Sorted: KVs stay in time order.
        best = scores.argsort(dim=-1, descending=True, stable=True)[:, :keep]
        return best.sort(dim=-1).values


class ScoredPruning(RankedPruning):
    """Abstract: importance does not depend on how many are kept. A new method is one `score`."""

    @abstractmethod
    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Importance `(H, T)`; higher = keep."""

    @override
    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        return self.score(kv, obs)


class OnPruning(Compressor):
    """Abstract: built on a pruning method, whose needs, probe text, check and operations are its own.

    Attributes:
        pruner: the pruning method.
    """

    pruner: Pruning

    @property
    @override
    def needs(self) -> frozenset[str]:
        return self.pruner.needs

    @property
    @override
    def probe(self) -> str:
        return self.pruner.probe

    @override
    def check(self, tokens: int, keep: int) -> None:
        self.pruner.check(tokens, keep)

    @override
    def flops(self, sizes: Sizes) -> int:
        return self.pruner.flops(sizes)


def exact(x: Tensor) -> Tensor:
    """In fp32 at least: scores of half-precision KVs would tie."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rotated_keys(kv: LayerKV, obs: Observation) -> Tensor:
    """Keys `(H, T, D)` with RoPE, as attention sees them and as methods that read a stock cache see them."""
    return exact(obs.rope.apply_rope(kv.keys, obs.positions)[0])


def check_whole(method: str, field: str, value: int, least: int, odd: bool = False) -> None:
    """Checks a number of tokens or steps that a method was given.

    Raises:
        ValueError: no integer, too small, or even where it must be odd.
    """
    if type(value) is not int or value < least or (odd and value % 2 == 0):
        raise ValueError(
            f"{method}: {field}={value!r}: must be an {'odd ' if odd else ''}integer >= {least}"
        )


def check_fits(method: str, field: str, value: int | None, tokens: int, keep: int) -> None:
    """Checks a number of tokens that a method keeps whatever their score; None follows the kept count and always fits.

    Raises:
        ValueError: nothing is left to choose.
    """
    if value is not None and value >= keep:
        raise ValueError(
            f"{method}: {field}={value}: always kept, so it must be smaller than the kept count, here {keep} of "
            f"{tokens} tokens, or nothing is left to choose; set {field} to null (follows the kept count) or below "
            f"{keep}, lower the ratio, or pre-fill larger chunks (prefill.chunk_frames)"
        )
