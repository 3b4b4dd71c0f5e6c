"""What does not fit the model's context: found before it is run, said in one line with what to change.

A model was made for so many positions (`ModelShape.context_length`); beyond them it answers, but nonsense. What counts
is how many KVs are attended to at once and where the last rotary position lies, so that a compressed context or
`compact` positions may hold a video whose prompt is longer than the context.
"""

from __future__ import annotations

from x2l import UserError


class ContextError(UserError, ValueError):
    """A video or a question is longer than the model's context; the message says what to change."""


def check_context(
    context_length: int | None, tokens: int, end: int, what: str, remedy: str
) -> None:
    """Checks that what is attended to lies inside the model's context.

    Args:
        context_length: positions that the model was made for; None = not known, so not checked.
        tokens: KVs attended to at once, new ones included.
        end: one past the last rotary position in use.
        what: starts the message, with its numbers, e.g. `question: its 40 tokens`.
        remedy: ends it.

    Raises:
        ContextError: it does not.
    """
    needed = max(tokens, end)
    if context_length is not None and needed > context_length:
        raise ContextError(
            f"{what} need {needed:,} positions, but the model's context has {context_length:,}; {remedy}"
        )


def check_video(
    context_length: int | None, prompt_tokens: int, attended: int, end: int, otherwise: str
) -> None:
    """Checks a video before its pre-fill.

    Args:
        context_length: as in `check_context`.
        prompt_tokens: text before the video and the whole video.
        attended: the most KVs that any chunk attends to, itself included.
        end: one past the last position of the pre-fill.
        otherwise: what can be done beside fewer or smaller frames.

    Raises:
        ContextError: it is too long.
    """
    check_context(
        context_length,
        attended,
        end,
        f"video: its {prompt_tokens:,} tokens",
        f"use fewer frames (video.frames=), smaller ones (model.video_processor=), or {otherwise}",
    )


def check_question(
    context_length: int | None, cached: int, next_position: int, tokens: int, max_new_tokens: int
) -> None:
    """Checks a question before it is run.

    Args:
        context_length: as in `check_context`.
        cached: KVs of the mixed cache.
        next_position: of the question's first token.
        tokens: of the question, with what the chat template puts around it.
        max_new_tokens: that may be generated.

    Raises:
        ContextError: it is too long, with the answer.
    """
    new = tokens + max_new_tokens
    check_context(
        context_length,
        cached + new,
        next_position + new,
        f"question: its {tokens:,} tokens, {max_new_tokens:,} to answer with (max_new_tokens) and {cached:,} KVs of "
        "the video",
        "ask a shorter question, lower max_new_tokens, use fewer frames (video.frames=), or a "
        "higher ratio of the coarsest level",
    )
