import pytest

from x2l.cli.ask.clock import clock, is_fine, merged


@pytest.mark.parametrize(
    ("seconds", "fine", "text"),
    [
        (0, False, "00:00"),
        (59.4, False, "00:59"),
        (59.6, False, "01:00"),
        (3599, False, "59:59"),
        (3600, False, "1:00:00"),
        (36061.2, False, "10:01:01"),
        (1.25, True, "00:01.2"),
        (59.96, True, "01:00.0"),
        (3661.5, True, "1:01:01.5"),
    ],
)
def test_clock(seconds, fine, text):
    assert clock(seconds, fine) == text


def test_neighbours_are_one_span():
    spans = [(0.0, 8.0), (8.0, 16.0), (16.0, 24.0), (24.0, 30.0)]
    assert merged(spans, ()) == ()
    assert merged(spans, (2,)) == ((16.0, 24.0),)
    assert merged(spans, (3, 0, 1)) == ((0.0, 16.0), (24.0, 30.0))
    assert merged(spans, range(4)) == ((0.0, 30.0),)


def test_only_short_spans_need_tenths():
    assert is_fine([(0.0, 1.5), (1.5, 2.0)])
    assert not is_fine([(0.0, 8.0), (8.0, 8.5)])  # a short last chunk does not count
