"""Every rule against answers.tsv: real-looking answers, and what each rule makes of them.

The columns of the published rules were made by the published functions themselves; `lone_letter` was read by eye.
"""

import csv
import json
from pathlib import Path

import pytest

from x2l.benchmarks import answer_extraction as extraction

TABLE = Path(__file__).with_name("answers.tsv")
RULES = (
    "first_capital",
    "first_capital_of_five",
    "lowest_capital",
    "best_formatted",
    "at_bracket",
    "inside_brackets",
    "lone_letter",
)


def table():
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [{**row, "answer": json.loads(row["answer"])} for row in rows]


def test_the_table_is_large_and_has_no_row_twice():
    rows = table()
    assert len(rows) >= 400
    assert len({(row["options"], row["answer"]) for row in rows}) == len(rows)
    assert {row["options"] for row in rows} == {"2", "4", "5", "6"}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_reads_every_answer_as_it_should(rule):
    extract = getattr(extraction, rule)
    wrong = {
        row["answer"]: (found, row[rule])
        for row in table()
        if (found := extract(row["answer"], int(row["options"])) or "-") != row[rule]
    }
    assert not wrong


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_sees_letters_and_nothing_in_the_table(rule):
    """A rule that always or never finds a letter would be a broken column, not a rule."""
    found = {row[rule] for row in table()}
    assert {"A", "B", "C", "D", "-"} <= found


def test_of_letters_in_one_form_the_last_counts():
    """Also where another letter's first place lies behind that of the last one."""
    assert extraction.best_formatted("(A) or (B)? Hmm, (A)", 4) == "A"


def test_own_rule_never_reads_a_letter_beyond_the_options():
    for row in table():
        letter = extraction.lone_letter(row["answer"], 2)
        assert letter in (None, "A", "B")
