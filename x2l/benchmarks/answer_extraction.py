"""The letter in an answer: one pure function for each rule that some benchmark's code applies.

Every rule takes the model's text and the number of options, and returns a letter, or None where the
rule finds none. The rules differ: `Answer: C` is C for a reader, A for the rules that take the first
capital letter. They are kept as published, so that numbers can be compared; what each makes of more
than 200 answers stands in tests/benchmarks/answers.tsv.
"""

import re
import unicodedata
from collections.abc import Sequence

from x2l.benchmarks.option_text import letters

# Phrases that are deleted before the search, in this order.
_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
# The published lists lack a comma twice, so that the last four became two that nobody writes.
_PHRASES_AS_PUBLISHED = (*_PHRASES[:4], _PHRASES[4] + _PHRASES[5], _PHRASES[6] + _PHRASES[7])


def lone_letter(text: str, count: int) -> str | None:
    """x2l's own rule: the one option letter that a text names, or None.

    Only capital letters that stand alone are read, so `Answer: B`, `(B)`, `B.`, `**B**` and `The
    answer is B` give B, while the A of `A red star, so B` counts as a letter like any other: two
    different letters are ambiguous and give None. A text that starts with a letter and its mark
    (`B. the red one`, `B) ...`, `(B) ...`) names that one, whatever follows. Full-width letters
    and marks are read as the usual ones, and a letter may touch a script that has no capitals.
    """
    options = letters(count)
    text = unicodedata.normalize("NFKC", text)
    start = re.match(rf"\s*(?:\(([{options}])\)|([{options}])[.):])", text)
    if start:
        return start.group(1) or start.group(2)
    # What makes a letter part of a word: Latin letters and digits, an apostrophe between them, and
    # a slash (`N/A`).
    part = r"[0-9A-Za-z\u00c0-\u024f/]"
    found = re.findall(rf"(?<!{part})(?<!{part}')([{options}])(?!{part})(?!'{part})", text)
    named = set(found)
    return named.pop() if len(named) == 1 else None


def first_capital(text: str, count: int) -> str | None:
    """VideoMME's rule, and lmms-eval's for VideoMME and MLVU: the first of A to D in the text.

    It may stand inside a word: `Brown` is B. Sources: Video-MME 4e7566d evaluation/
    eval_your_results.py; lmms-eval 7f9c482 lmms_eval/tasks/{videomme,mlvu}/utils.py. They know
    four options; here the range grows with more.
    """
    return _first(text, _PHRASES_AS_PUBLISHED, max(4, count))


def first_capital_of_five(text: str, count: int) -> str | None:
    """LongVideoBench's rule: the first of A to E in the text.

    Source: lmms-eval 7f9c482 lmms_eval/tasks/longvideobench/utils.py, by the set's authors.
    """
    return _first(text, _PHRASES, max(5, count))


def lowest_capital(text: str, count: int) -> str | None:
    """VNBench's rule: before the first full stop, A if there is one, else B, else C, else D.

    Source: VideoNIAH 521e56f evaluation/eval.py.
    """
    head = text.split(".")[0]
    return next((letter for letter in letters(max(4, count)) if letter in head), None)


def before_bracket(text: str, count: int) -> str | None:
    """MLVU's rule: all that stands before the first `)` must be the letter, and nothing else.

    Source: MLVU 0b16f40 video_chat/choice_bench.py, which makes the model go on after
    `Best Option: (`.
    """
    return _option(text.strip().split(")")[0], count)


def at_bracket(text: str, count: int) -> str | None:
    """lmms-eval's rule for MLVU since 2025: the character before the first `)`, else the whole text.

    Source: lmms-eval 801baf6 lmms_eval/tasks/mlvu/utils.py.
    """
    head, bracket, _ = text.strip().partition(")")
    return _option(head[-1:] if bracket else head, count)


def inside_brackets(text: str, count: int) -> str | None:
    """LVBench's rule: the first character of what stands before `)`, after a `(` if there is one.

    Source: LVBench 1dd4612 lvbench/utils/answer_util.py.
    """
    head = text.strip().split(")")[0].strip()
    if "(" in head:
        head = head.split("(")[1].strip()
    return _option(head[:1], count)


def _first(text: str, phrases: Sequence[str], count: int) -> str | None:
    for phrase in phrases:
        text = text.replace(phrase, "")
    found = re.search(f"[{letters(count)}]", text)
    return found.group() if found else None


def _option(text: str, count: int) -> str | None:
    return text if len(text) == 1 and text in letters(count) else None
