"""What a video turns into for the language model: a prompt whose middle is cut into chunks.

A chunk is a span of consecutive frames *and* the span of prompt tokens that stands for them: visual tokens plus
any text between them (timestamps). Knows nothing of models or of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames and their span of the prompt.

    Attributes:
        index: place among the video's chunks.
        start, stop: token span in the prompt.
        frames: (first, one past last) of the sampled frames.
        seconds: (start, end) in the file; a frame lasts until the next one is sampled.
        frame_seconds: time of each of its sampled frames in the file.
        is_visual: `(T,)` bool; text inside the span (timestamps) is never compressed.
        grid: visual tokens as (time steps, rows, columns); their product is the number of visual tokens. A chunk of
            which the model's processor dropped tokens forms no grid: (1, 1, visual tokens).
        steps: visual tokens of each time step.
        positions: `(A, T)` integer rotary positions of all its tokens, as the model was trained with.
    """

    index: int
    start: int
    stop: int
    frames: tuple[int, int]
    seconds: tuple[float, float]
    frame_seconds: tuple[float, ...]
    is_visual: Tensor
    grid: tuple[int, int, int]
    steps: tuple[int, ...]
    positions: Tensor

    @property
    def tokens(self) -> int:
        """All tokens of the span."""
        return self.stop - self.start

    @property
    def visual_tokens(self) -> int:
        """The tokens that compressors see."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class Prompt:
    """Everything before the question: the text before the video, and the video's chunks.

    Attributes:
        input_ids: `(tokens,)` token ids of prefix and video, placeholders where visual tokens stand.
        positions: `(A, tokens)` rotary positions.
        prefix: number of tokens before the first chunk (never compressed).
        chunks: the chunks, in time order, without gaps.
        next_position: rotary position of the first token after the video, whatever is kept (`keep`).
        video_end: one past the largest temporal position inside the video.
        visual: what the model needs to embed chunks: frames, and the size that the whole video asked for.
        space_follows_time: rows and columns of a time step count from its time (Qwen3-VL, GLM-4V), not from the
            start of the video (Qwen2-VL). No matter with one axis.
    """

    input_ids: Tensor
    positions: Tensor
    prefix: int
    chunks: tuple[Chunk, ...]
    next_position: int
    video_end: int
    visual: Mapping[str, Any]
    space_follows_time: bool = False

    @property
    def tokens(self) -> int:
        """Prefix and video tokens."""
        return int(self.input_ids.shape[0])


@dataclass(frozen=True)
class Question:
    """The text after the video, as the chat template closes it.

    Attributes:
        text: the user's words.
        input_ids: `(tokens,)`, from the first token after the video to the start of the answer.
        characters: `(tokens, 2)`, from which character of `text` to which each token stands; beyond it, or from one
            character to the same, for what the chat template adds.
    """

    text: str
    input_ids: Tensor
    characters: Tensor

    def tokens_of(self, words: str) -> Tensor:
        """Indices of the tokens that stand for some words of the text; where they occur twice, the last time.

        Raises:
            ValueError: the words are not in the text, or no token is known to stand for them.
        """
        start = self.text.rfind(words)
        begins, ends = self.characters.T
        inside = (begins < start + len(words)) & (ends > start) & (ends > begins)
        if start < 0 or not bool(inside.any()):
            raise ValueError(
                f"question={self.text!r}: holds no token of {words!r}; let the selector look at all: tokens=all"
            )
        return inside.nonzero()[:, 0]
