"""Multiple choice as text: the prompt's option lines, and the letter in an answer. Pure functions."""

import re
import string

INSTRUCTION = "Answer with the option's letter from the given choices directly."


def letters(count: int) -> str:
    """The first `count` option letters, e.g. `ABCD`.

    Raises:
        ValueError: fewer than 2 or more than 26 options.
    """
    if not 2 <= count <= 26:
        raise ValueError(f"count={count}: a choice has 2 to 26 options")
    return string.ascii_uppercase[:count]


def vnbench_prompt(question: str, choices: tuple[str, ...]) -> str:
    """VNBench's official prompt: the question, one `A. ...` line per option, the instruction."""
    lines = [
        f"{letter}. {text}" for letter, text in zip(letters(len(choices)), choices, strict=True)
    ]
    return "\n".join([question, *lines, INSTRUCTION])


def extract_letter(text: str, count: int) -> str | None:
    """The one option letter that a text names, or None.

    Only capital letters that stand alone are read, so `Answer: B`, `(B)`, `B.`, `**B**` and `The
    answer is B` give B, while the A of `A red star, so B` counts as a letter like any other: two
    different letters are ambiguous and give None. A text that starts with a letter and its mark
    (`B. the red one`, `B) ...`, `(B) ...`) names that one, whatever follows.

    Args:
        text: what the model wrote.
        count: number of options; letters beyond them are not options.
    """
    options = letters(count)
    start = re.match(rf"\s*(?:\(([{options}])\)|([{options}])[.):])", text)
    if start:
        return start.group(1) or start.group(2)
    named = set(re.findall(rf"(?<![\w'])([{options}])(?![\w'])", text))
    return named.pop() if len(named) == 1 else None
