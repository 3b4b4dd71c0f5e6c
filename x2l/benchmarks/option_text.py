"""Multiple choice as text: letters and the prompt's option lines. Pure functions."""

import string
from collections.abc import Sequence

INSTRUCTION = "Answer with the option's letter from the given choices directly."


def letters(count: int) -> str:
    """The first `count` option letters, e.g. `ABCD`.

    Raises:
        ValueError: fewer than 2 or more than 26 options.
    """
    if not 2 <= count <= 26:
        raise ValueError(f"count={count}: a choice has 2 to 26 options")
    return string.ascii_uppercase[:count]


def dotted(choices: Sequence[str]) -> str:
    """One line an option: `A. red`."""
    pairs = zip(letters(len(choices)), choices, strict=True)
    return "\n".join(f"{letter}. {text}" for letter, text in pairs)


def bracketed(choices: Sequence[str]) -> str:
    """One line an option: `(A) red`."""
    pairs = zip(letters(len(choices)), choices, strict=True)
    return "\n".join(f"({letter}) {text}" for letter, text in pairs)


def vnbench_prompt(question: str, choices: Sequence[str]) -> str:
    """VNBench's official prompt: the question, one `A. ...` line per option, the instruction."""
    return "\n".join([question, dotted(choices), INSTRUCTION])
