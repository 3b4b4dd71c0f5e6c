"""The language of top_k, its check and its order."""

import pytest

from x2l.engine.top_k import (
    budget_of,
    check_top_k,
    counts_of,
    is_budget,
    ladder,
    order_key,
)

THREE = ("low", "mid", "high")


def test_words():
    assert ladder("2+4") == (2, 4) and ladder("2") is None and ladder(3) is None
    assert [is_budget(word) for word in ("12%", "0.5%", "64MB", "gt", 4, None, "2+4")] == [
        *[True] * 3,
        *[False] * 4,
    ]
    assert budget_of("12.5%", 1000) == 125 and budget_of("1.5MB", 7) == 1_500_000
    assert counts_of(2, THREE) == (2, 0) and counts_of("2+4", THREE) == (2, 4)
    assert counts_of(2, ("low", "high")) == (2,) and counts_of(0, ("high",)) == ()
    assert counts_of("gt", THREE, gt=(0, 1, 3)) == (3, 0)
    with pytest.raises(ValueError, match="top_k=gt: this benchmark"):
        counts_of("gt", THREE)


@pytest.mark.parametrize(
    ("top_k", "message"),
    [
        ("2+", r"top_k='2\+': must be a number of chunks >= 0, .*a ladder such as 2\+4"),
        ("12 %", "must be a number"),
        ("64MiB", "must be a number"),
        ("0%", "top_k=0%: must be above 0, and at most 100%"),
        ("101%", "at most 100%"),
        ("0MB", "must be above 0"),
        ("1+2+3", r"top_k=1\+2\+3: .*levels are low, mid, high, so give 2"),
        ("5+4", r"top_k=5\+4: the video has only 8 chunks"),
        (9, "top_k=9: the video has only 8 chunks; use top_k <= 8"),
        (-1, "top_k=-1: must be a number of chunks >= 0"),
        ("two", "top_k='two': must be"),
    ],
)
def test_wrong_words_are_refused_early(top_k, message):
    with pytest.raises(ValueError, match=message):
        check_top_k(top_k, (), THREE, 8)


def test_good_words_pass():
    for top_k in (0, 8, "gt", "task", "4+4", "12%", "100%", "200MB"):
        check_top_k(top_k, ("first",), THREE, 8)
    check_top_k("1+2+3")  # fits some number of levels
    for top_k in (1, "12%"):
        with pytest.raises(ValueError, match=r"selection.pinned=\['middle'\]: must be among"):
            check_top_k(top_k, ("middle",), THREE, 8)


def test_order_is_by_kind_and_then_by_size():
    ordered = [None, 0, 2, 10, "1+2", "0+4", "2+4", "10+0", "0.5%", "12%", "100%"]
    ordered += ["900kB", "64MB", "0.1GB", "1GB", "gt", "task"]
    assert sorted(reversed(ordered), key=order_key) == ordered
