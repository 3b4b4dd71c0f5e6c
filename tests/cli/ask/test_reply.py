import dataclasses
import math

import pytest

from x2l.cli.ask.reply import MOST_SPARKS, PLAIN_SPARKS, SPARKS, _relevance_lines
from x2l.evaluation.library import Reply

LEVELS = ("low", "mid", "high")


def reply(relevance, reloaded=()):
    assigned = tuple("low" if index in reloaded else "high" for index in range(len(relevance)))
    rated = tuple(-math.inf if value is None else value for value in relevance)
    return Reply(
        "What?", "That.", (1,), False, rated, assigned, tuple(reloaded), 1, 1, 1, {}, 1, {}
    )


def relevance_lines(one, encoding):
    return _relevance_lines(one, encoding, LEVELS)


def test_a_bar_for_each_chunk_and_a_mark_under_reloaded_ones():
    bars, marks = relevance_lines(reply([0.0, 1.0, 7.0, 3.5], (2, 3)), "utf-8")
    assert bars == "relevance   ▁▂█▅  0 to 7"
    assert marks == "              ^^"


def test_levels_between_have_a_mark_of_their_own():
    assigned = ("low", "mid", "high")
    one = dataclasses.replace(reply([3.0, 2.0, 1.0], (0, 1)), assigned=assigned)
    assert relevance_lines(one, "utf-8")[1].strip() == "^-"
    renamed = dataclasses.replace(one, assigned=("fine", "some", "bare"))
    assert _relevance_lines(renamed, "utf-8", ("fine", "some", "bare"))[1].strip() == "^-"


def test_many_chunks_share_bars_that_show_the_highest():
    rated = [0.0] * 150
    rated[100] = 1.0  # three chunks a bar: the bar of 99 to 101
    bars, marks = relevance_lines(reply(rated, (100, 149)), "utf-8")
    drawn = bars.split()[1]
    assert len(drawn) == 50 <= MOST_SPARKS
    assert drawn.index("█") == 33 and drawn.count("▁") == 49
    assert [place - 12 for place, letter in enumerate(marks) if letter == "^"] == [33, 49]


def test_chunks_without_a_rating_are_lowest_and_without_any_there_is_no_line():
    (bars,) = relevance_lines(reply([None, -1.0, 1.0]), "utf-8")
    assert bars == "relevance   ▁▁█  -1 to 1"
    assert relevance_lines(reply([None, None], (0, 1)), "utf-8") == []
    (bars,) = relevance_lines(reply([0.0, 0.0]), "utf-8")
    assert bars.split()[1] == "▁▁"


@pytest.mark.parametrize(("encoding", "sparks"), [("ascii", PLAIN_SPARKS), ("utf-8", SPARKS)])
def test_bars_are_of_letters_that_can_be_printed(encoding, sparks):
    (bars,) = relevance_lines(reply([float(n) for n in range(8)]), encoding)
    assert bars.split()[1] == sparks
    bars.encode(encoding)
