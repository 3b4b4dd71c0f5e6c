"""Which prompt tokens stand for which time step: text inside a video belongs to a step. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _shared(texts: Sequence[list[int]]) -> int:
    """Length of the longest common beginning."""
    length = 0
    for tokens in zip(*texts, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


def step_starts(
    ids: list[int],
    visual: Tensor,
    counts: Sequence[int],
    region: tuple[int, int],
    label_follows: bool,
) -> tuple[int, ...]:
    """First token of each time step; a step ends where the next one starts, the last one with the region.

    Between the visual tokens of two steps stands what closes the earlier one (`</img>`), and what opens the later one
    (`Frame2: <img>`). What closes a step is the same behind every step, the last one included; what opens it, the same
    before every step. Between both stands the label that tells the time, which most families put before a step.

    Args:
        ids: token ids of the whole prompt.
        visual: `(tokens,)` bool, placeholders of frames.
        counts: visual tokens of each step.
        region: span of the tokens that the video expanded to.
        label_follows: labels stand behind their step.

    Raises:
        RuntimeError: the counts do not add up to the visual tokens.
    """
    places = visual.nonzero()[:, 0].tolist()
    if len(places) != sum(counts):
        raise RuntimeError(
            f"{len(places)} visual tokens in the prompt, but its video has {sum(counts)}: "
            "the processor and the adapter disagree about this model"
        )
    ends = torch.tensor(counts).cumsum(0).tolist()
    first = [places[end - count] for end, count in zip(ends, counts, strict=True)]
    last = [places[end - 1] for end in ends]
    head, tail = ids[region[0] : first[0]], ids[last[-1] + 1 : region[1]]
    between = [ids[a + 1 : b] for a, b in zip(last[:-1], first[1:], strict=True)]
    if not between:
        return (region[0],)
    if label_follows:
        opening = _shared([text[::-1] for text in [head, *between]])
        closing = [len(text) - opening for text in between]
    else:
        closing = [_shared([*between, tail])] * len(between)
    opened = between[0][closing[0] :]
    start = region[0]
    if (
        opened and opened[0] in head
    ):  # an introduction before the first label is no part of the first step
        start += len(head) - 1 - head[::-1].index(opened[0])
    return (start, *(end + 1 + length for end, length in zip(last[:-1], closing, strict=True)))
