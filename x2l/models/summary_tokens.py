"""Summary tokens inside a stock decoder: rows of the input that queries, keys and values of their own are made for.

Which rows these are is said by a `with`, never stored on a model; outside it the layer is the stock one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Rows:
    """Which rows of the input are summary tokens.

    Attributes:
        is_summary: `(T,)` bool, on the CPU.
        by_device: a memo. With a mask in place of indices every projection would wait for the GPU.
    """

    is_summary: Tensor
    by_device: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Indices of the other rows, and of summary tokens."""
        if device not in self.by_device:
            others, summaries = (~self.is_summary).nonzero(), self.is_summary.nonzero()
            self.by_device[device] = others[:, 0].to(device), summaries[:, 0].to(device)
        return self.by_device[device]


_rows: ContextVar[_Rows | None] = ContextVar("x2l_summary_rows", default=None)


@contextmanager
def summarising(is_summary: Tensor | None) -> Iterator[None]:
    """Says which rows of the decoder's input are summary tokens inside the block: `(T,)` bool, or None for none."""
    token = _rows.set(None if is_summary is None else _Rows(is_summary.cpu()))
    try:
        yield
    finally:
        _rows.reset(token)


class SummaryLinear(nn.Linear):
    """A projection with another one, of the same sizes, for summary tokens. Final."""

    def __init__(self, in_features: int, out_features: int) -> None:
        """Both with a bias, as Qwen2's q, k and v have one."""
        super().__init__(in_features, out_features)
        self.summary = nn.Linear(in_features, out_features)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(1, T, in_features)` -> `(1, T, out_features)`."""
        rows = _rows.get()
        if rows is None:
            return super().forward(hidden)
        others, summaries = rows.on(hidden.device)
        projected = hidden.new_empty(*hidden.shape[:-1], self.out_features)
        projected[:, others] = super().forward(hidden[:, others])
        projected[:, summaries] = self.summary(hidden[:, summaries])
        return projected
