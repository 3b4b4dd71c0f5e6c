"""What one family of models needs beyond the generic adapter. The defaults fit a family that needs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from x2l.models.positions import Placement


@dataclass(frozen=True)
class Family:
    """How one family differs; each family that does has a small file of its own.

    Attributes:
        label_follows: text between two time steps tells the time of the earlier one (GLM-4V), not of the later.
        outro: text at the very end of the expanded video that the question's first word may be tokenized with.
        newline: visual placeholders at the end of the whole video that stand for no frame (LLaVA-OneVision: one).
        wrapper: texts around the placeholder that the `reference` rule takes away (Qwen3-VL), or None.
        lookback: frames before a chunk that its processing needs to see.
        trim: (processor outputs, n) -> the outputs without the first n frames; for families with a lookback.
        dropped: name of a processor output, `(visual tokens,)` bool, False where the processor drops a token.
        positions: (config, grid, base, sampled frames a second, rule) -> M-RoPE positions `(3, visual tokens)` of a
            video that is one block at `base`, and where the text after it goes; None = the stock model's own rule.
        extras: what the decoder takes beside embeddings for a span with frames in it.
        space_follows_time: each time step is a block of its own whose rows and columns count from its time.
    """

    label_follows: bool = False
    outro: str = ""
    newline: int = 0
    wrapper: tuple[str, str] | None = None
    lookback: int = 0
    trim: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    dropped: str | None = None
    positions: (
        Callable[[Any, tuple[int, int, int], int, float, str], tuple[Tensor, Placement]] | None
    ) = None
    extras: tuple[str, ...] = ()
    space_follows_time: bool = False
