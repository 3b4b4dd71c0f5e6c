import pytest

from x2l.cli.ask.own_video import Reply
from x2l.cli.ask.reply import MOST_SPARKS, PLAIN_SPARKS, SPARKS, _number, _relevance_lines


def reply(relevance, reloaded=()):
    assigned = tuple("low" if index in reloaded else "high" for index in range(len(relevance)))
    rated, chosen = tuple(relevance), tuple(reloaded)
    return Reply("What?", "That.", False, rated, chosen, assigned, (), 1, 1, 1, 0.1)


def test_a_bar_for_each_chunk_and_a_mark_under_reloaded_ones():
    bars, marks = _relevance_lines(reply([0.0, 1.0, 7.0, 3.5], (2, 3)), "utf-8")
    assert bars == "relevance   ▁▂█▅  0 to 7"
    assert marks == "              ^^"


def test_many_chunks_share_bars_that_show_the_highest():
    rated = [0.0] * 150
    rated[100] = 1.0  # three chunks a bar: the bar of 99 to 101
    bars, marks = _relevance_lines(reply(rated, (100, 149)), "utf-8")
    drawn = bars.split()[1]
    assert len(drawn) == 50 <= MOST_SPARKS
    assert drawn.index("█") == 33 and drawn.count("▁") == 49
    assert [place - 12 for place, letter in enumerate(marks) if letter == "^"] == [33, 49]


def test_chunks_without_a_rating_are_lowest_and_without_any_there_is_no_line():
    (bars,) = _relevance_lines(reply([None, -1.0, 1.0]), "utf-8")
    assert bars == "relevance   ▁▁█  -1 to 1"
    assert _relevance_lines(reply([None, None], (0, 1)), "utf-8") == []
    (bars,) = _relevance_lines(reply([0.0, 0.0]), "utf-8")
    assert bars.split()[1] == "▁▁"


@pytest.mark.parametrize(("encoding", "sparks"), [("ascii", PLAIN_SPARKS), ("utf-8", SPARKS)])
def test_bars_are_of_letters_that_can_be_printed(encoding, sparks):
    (bars,) = _relevance_lines(reply([float(n) for n in range(8)]), encoding)
    assert bars.split()[1] == sparks
    bars.encode(encoding)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (1730000, "1.73 MB"), (7.75e9, "7.75 GB")],
)
def test_numbers_have_three_digits_and_a_prefix(value, text):
    assert _number(value, "B") == text
