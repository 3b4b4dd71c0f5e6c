"""Merging: clusters of similar keys, head by head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from x2l.compressors.base import Sizes
from x2l.compressors.grouping import KeyGrouping, by_group, group_sums


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of `(H, T, D)` to `(H, K, D)`: `(H, T, K)`."""
    lengths = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None, :]
    return (lengths - 2 * x @ y.transpose(1, 2)).clamp(min=0)


def _centred(keys: Tensor) -> Tensor:
    """Keys less their head's mean, at least fp32: distances stay, and large common parts no longer cost precision."""
    exact = keys.to(torch.promote_types(keys.dtype, torch.float32))
    return exact - exact.mean(dim=1, keepdim=True)


def filled(group: Tensor, distance: Tensor, groups: int) -> Tensor:
    """Gives every empty group the token that is farthest from its own centre; `(H, T)` new groups.

    The nearest token of each group stays, so none runs empty for another.

    Args:
        group: `(H, T)` group of each token.
        distance: `(H, T)` of each token to its group's centre.
        groups: number of groups, at most T.
    """
    order = by_group(-distance, group)  # the nearest token of each group comes first in it
    ascending = group.gather(1, order)
    leads = torch.ones_like(group, dtype=torch.bool)
    leads[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    stays = torch.empty_like(leads).scatter_(1, order, leads)
    farthest = distance.masked_fill(stays, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    numbers = torch.arange(group.shape[1], device=group.device).expand_as(group)
    rank = torch.empty_like(group).scatter_(1, farthest, numbers)
    empty = torch.ones(len(group), groups, dtype=torch.bool, device=group.device)
    empty.scatter_(1, group, False)
    free = empty.long().argsort(dim=-1, descending=True, stable=True)  # empty groups first
    takes = rank < empty.sum(dim=-1, keepdim=True)
    return torch.where(takes, free.gather(1, rank.clamp(max=groups - 1)), group)


@dataclass(frozen=True)
class KMeans(KeyGrouping):
    """K-means over keys before RoPE, each head its own clusters, from evenly spaced tokens. Final.

    Lloyd's algorithm. A query's logits for a key and for its cluster's centre differ by at most the query's length
    times their distance, which is what k-means makes small; so distances are Euclidean, not cosine. One iteration is
    how VisionZip merges its contextual tokens (Yang et al., arXiv 2412.04467): every token into the most similar of
    evenly spaced ones. The start is not drawn, so a run repeats. An empty cluster takes the token farthest from its
    own.

    Attributes:
        iterations: rounds of assigning tokens to centres.
        proportional: add the log of a cluster's number of tokens to the attention logits.
    """

    iterations: int = 5
    proportional: bool = True
    name: str = "kmeans"

    def __post_init__(self) -> None:
        """Checks the iterations.

        Raises:
            ValueError: none.
        """
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations}: must be >= 1; 5 is enough as a rule")

    @override
    def by_keys(self, keys: Tensor, keep: int) -> Tensor:
        points, tokens = _centred(keys), keys.shape[1]
        spaced = (2 * torch.arange(keep, device=keys.device) + 1) * tokens // (2 * keep)
        group, centres = torch.empty(0), points[:, spaced]
        for last in range(self.iterations - 1, -1, -1):
            distance, nearest = _squares(points, centres).min(dim=-1)
            group = filled(nearest, distance, keep)
            if last:
                sizes = group_sums(torch.ones_like(points[..., :1]), group, keep)
                centres = group_sums(points, group, keep) / sizes
        return group

    def flops(self, sizes: Sizes) -> int:
        """Distances to all centres and new centres in each iteration; means of keys and values."""
        distances = 2 * sizes.entries * sizes.keep * self.iterations
        return distances + 2 * sizes.entries * (self.iterations - 1) + 4 * sizes.entries


@dataclass(frozen=True)
class DensityPeaks(KeyGrouping):
    """Density peaks clustering on nearest neighbours (DPC-KNN) over keys before RoPE, head by head. Final.

    As Chat-UniVi (Jin et al., arXiv 2311.08046, eq. 1 to 3) merges visual tokens: a token's density is exp of minus the
    mean squared distance to its nearest neighbours; centres are the tokens of largest density times distance to the
    next denser token; all others join the nearest centre. Adapted: keys in place of features; distances in units of
    the head's mean, since the exponential of raw ones vanishes; ties go to the earlier token, there to noise.
    Needs memory for all pairs of a chunk's tokens, `(H, T, T)` in fp32.

    Attributes:
        neighbours: nearest tokens that make a density, the token itself included (Chat-UniVi: 5).
        proportional: add the log of a cluster's number of tokens to the attention logits.
    """

    neighbours: int = 5
    proportional: bool = True
    name: str = "density_peaks"

    def __post_init__(self) -> None:
        """Checks the neighbours.

        Raises:
            ValueError: fewer than two.
        """
        if self.neighbours < 2:
            raise ValueError(
                f"neighbours={self.neighbours}: must be >= 2, as the first is the token itself"
            )

    @override
    def by_keys(self, keys: Tensor, keep: int) -> Tensor:
        points = _centred(keys)
        squares = _squares(points, points)
        near = squares.topk(min(self.neighbours, keys.shape[1]), dim=-1, largest=False).values
        scale = squares.mean(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(squares.dtype).tiny)
        density = (-(near / scale).mean(dim=-1)).exp()  # (H, T)
        numbers = torch.arange(keys.shape[1], device=keys.device).expand_as(density)
        order = density.argsort(dim=-1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, numbers)
        denser = rank[:, None, :] < rank[:, :, None]
        gap = squares.masked_fill(~denser, torch.inf).amin(dim=-1).sqrt()
        # The densest token of a head has none above it: its gap is the largest distance there is.
        gap = gap.minimum(squares.amax(dim=(1, 2))[:, None].sqrt())
        centres = (gap * density).argsort(dim=-1, descending=True, stable=True)[:, :keep]
        chosen = centres[:, None, :].expand(-1, keys.shape[1], -1)
        group = squares.gather(2, chosen).argmin(dim=-1)
        return group.scatter(1, centres, torch.arange(keep, device=keys.device).expand_as(centres))

    def flops(self, sizes: Sizes) -> int:
        """Distances of all pairs; means of keys and values."""
        return 2 * sizes.entries * sizes.tokens + 4 * sizes.entries
