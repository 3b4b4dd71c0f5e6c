"""Torch's counter of operations, with attention on the CPU and by flash-attn counted as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def _sdpa_cpu(q: Any, k: Any, v: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    batch, heads, queries, width = q.shape
    return int(2 * batch * heads * queries * k.shape[2] * (width + v.shape[-1]))


_sdpa_cpu._get_raw = True  # type: ignore[attr-defined]  # torch's sign that it wants tensors, not shapes


def flop_counter() -> FlopCounterMode:
    """Torch's counter of matrix products, which by itself takes attention on a CPU for free."""
    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={cpu: _sdpa_cpu})


@contextmanager
def counted_attention(hf: Any) -> Iterator[None]:
    """Inside, the vision tower attends by sdpa, which torch's counter knows; flash-attn's own operators it does not."""
    config = hf.config.vision_config
    before = config._attn_implementation
    config._attn_implementation = "sdpa" if "flash" in before else before
    try:
        yield
    finally:
        config._attn_implementation = before


def work(inputs: dict[str, Any]) -> tuple[Any, ...]:
    """What the number of operations follows from: shapes, and how the patches lie in time, rows and columns.

    Equally many patches in other grids take another number of operations: attention stays within a time step.
    """
    shapes = tuple((name, *t.shape) for name, t in inputs.items() if isinstance(t, Tensor))
    grid = inputs.get("video_grid_thw")
    return shapes if grid is None else (*shapes, *grid.flatten().tolist())
