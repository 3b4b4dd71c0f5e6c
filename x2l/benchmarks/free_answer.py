"""Answers without options: how they are read and when they are right. Pure functions, x2l's own rules."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

# LLaVA-1.5's prompt for short answers (arXiv 2310.03744).
SHORT = "Answer the question using a single word or phrase."
NUMBER = "Answer with a number."
RULES = ("exact", "contains", "number", "number:0.5", "number:5%")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?", re.I)


@dataclass(frozen=True)
class FreeAnswer:
    """One rule.

    Attributes:
        instruction: what the prompt says after the question, if anything.
        max_new_tokens: what a model may write.
        read: the model's text -> what it says, None where that cannot be told.
        right: (what was read, the true answer) -> whether it is right.
        expects: raises a ValueError, which says what it must be, where a true answer cannot be compared with.
    """

    instruction: str | None
    max_new_tokens: int
    read: Callable[[str], str | None]
    right: Callable[[str, str], bool]
    expects: Callable[[str], None]


def free_answer(rule: str) -> FreeAnswer:
    """The rule of a name.

    Args:
        rule: `exact` (the same words), `contains` (the true answer's words stand in the text), `number` (the same
            number), `number:0.5` (off by 0.5 at most) or `number:5%` (by 5 % of the true one).

    Raises:
        ValueError: no such rule.
    """
    name, _, tolerance = rule.partition(":")
    if name == "number" and (match := re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", tolerance or "0")):
        within = Decimal(match[1]) / (100 if match[2] else 1)
        relative = bool(match[2])

        def near(said: str, answer: str) -> bool:
            truth = Decimal(number_in(answer) or "NaN")
            return abs(Decimal(said) - truth) <= within * (abs(truth) if relative else 1)

        return FreeAnswer(NUMBER, 16, number_in, near, _check_number)
    if rule == "exact":
        return FreeAnswer(SHORT, 16, words, lambda said, answer: said == words(answer), _check)
    if rule == "contains":
        return FreeAnswer(None, 64, words, _contains, _check)
    raise ValueError(f"benchmark.protocol={rule!r}: must be one of {', '.join(RULES)}")


def words(text: str) -> str | None:
    """A text without capitals, double spaces, a leading article, and quotes and marks around it; None if empty."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    text = text.strip(" \"'`*.,;:!?")
    return re.sub(r"^(?:an?|the) ", "", text) or None


def number_in(text: str) -> str | None:
    """The one number in a text, without commas between thousands; None where there is none, or several differ."""
    written = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\u2212", "-"))
    try:
        values = {Decimal(number.replace(",", "")) for number in written}
    except InvalidOperation:
        return None
    return str(values.pop()) if len(values) == 1 else None


def _contains(said: str, answer: str) -> bool:
    """As whole words: `no` is not in `know`."""
    return bool(re.search(rf"(?<!\w){re.escape(words(answer) or '')}(?!\w)", said))


def _check(answer: str) -> None:
    if words(answer) is None:
        raise ValueError("words that can be compared")


def _check_number(answer: str) -> None:
    if number_in(answer) is None:
        raise ValueError("one number, as benchmark.protocol compares numbers")
