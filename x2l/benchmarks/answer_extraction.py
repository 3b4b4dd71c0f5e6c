"""The letter in an answer: one pure function for each rule that some benchmark's code applies.

Every rule takes the model's text and the number of options, and returns a letter, or None where the
rule finds none. The rules differ: `Answer: C` is C for a reader, A for the rules that take the first
capital letter. They are kept as published, so that numbers can be compared: a rule whose code knows four
letters reads four, however many options there are. What each makes of more than 400 answers, as its own code
said, stands in tests/benchmarks/answers.tsv.
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

# What a letter follows for `best_formatted`, and the forms around it, the most telling last.
_SAYING = (
    *(f"{noun} is" for noun in ("answer", "choice", "my answer", "my choice")),
    *(f"{best} {noun} is" for best in ("correct", "best") for noun in ("answer", "option")),
    *("correct choice is", "the answer is", "the choice is", "the correct choice is"),
    *(f"the {best} {noun} is" for best in ("correct", "best") for noun in ("answer", "option")),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_FORMS = ("{} ", "{})", "{}:", "{}.", "({})")


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


def first_capital(text: str, _: int) -> str | None:
    """VideoMME's rule, and lmms-eval's for VideoMME and MLVU: the first of A to D in the text.

    It may stand inside a word: `Brown` is B. Sources: Video-MME 4e7566d evaluation/
    eval_your_results.py; lmms-eval 7f9c482 lmms_eval/tasks/{videomme,mlvu}/utils.py.
    """
    return _first(text, _PHRASES_AS_PUBLISHED, 4)


def first_capital_of_five(text: str, _: int) -> str | None:
    """LongVideoBench's rule: the first of A to E in the text.

    Source: lmms-eval 7f9c482 lmms_eval/tasks/longvideobench/utils.py, by the set's authors.
    """
    return _first(text, _PHRASES, 5)


def lowest_capital(text: str, _: int) -> str | None:
    """VNBench's rule: before the first full stop, A if there is one, else B, else C, else D.

    Source: VideoNIAH 521e56f evaluation/eval.py.
    """
    head = text.split(".")[0]
    return next((letter for letter in letters(4) if letter in head), None)


def best_formatted(text: str, _: int) -> str | None:
    """lmms-eval's rule for VideoMME of April 2026: of A to D, the one in the form that says most.

    A letter at the very start says most, then one at the end, after a phrase like `the answer is`, in brackets,
    before `.`, `:`, `)` or a space; within one form the last of them, and where there is none, any. After a phrase
    it is the letter whose first place lies last: `The answer is B. Because A` is A. Source: lmms-eval
    7a69a9a lmms_eval/tasks/_task_utils/mcq_extract.py.
    """
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare, padded = text.strip(), f" {text} "
    lower = padded.lower()
    behind = [at + len(p) for p in _SAYING if (at := lower.find(p)) != -1]

    def places(letter: str) -> list[tuple[int, int]]:
        """(how much the form says, where it stands)."""
        found = [(rank, padded.rfind(f.format(letter))) for rank, f in enumerate(_FORMS)]
        found += [(len(_FORMS), padded.find(letter, start)) for start in behind]
        if bare[-1:] == letter and not bare[-2:-1].isalpha():
            found.append((len(_FORMS) + 1, len(padded)))
        if bare[:1] == letter and not bare[1:2].isalpha():
            found.append((len(_FORMS) + 2, 0))
        return [place for place in found if place[1] != -1]

    best = {letter: max(of) for letter in letters(4) if (of := places(letter))}
    if not best:
        best = {letter: (0, at) for letter in letters(4) if (at := padded.rfind(letter)) != -1}
    return max(best, key=lambda letter: best[letter], default=None)


def at_bracket(text: str, count: int) -> str | None:
    """MLVU's rule, and lmms-eval's for it in 2025: the character before the first `)`, else the whole text.

    Sources: MLVU fd060c1 evaluation/multiple_choice_evaluation/choice_bench.py, whose prompt ends in `Best Option: (`;
    lmms-eval 801baf6 lmms_eval/tasks/mlvu/utils.py.
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
