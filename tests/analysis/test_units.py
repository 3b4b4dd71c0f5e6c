import math

import pytest

from x2l.analysis import units

NAN = math.nan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.percent(0.4567), "45.7"),
        (units.percent(0.4567, 0), "46"),
        (units.percent(NAN), "-"),
        (units.percent_range(0.4, 0.5), "40.0 to 50.0"),
        (units.points(0.012), "+1.2"),
        (units.points(-0.0001), "+0.0"),
        (units.points(NAN), "-"),
        (units.p_value(0.04), "0.040"),
        (units.p_value(0.0009), "<0.001"),
        (units.p_value(NAN), "-"),
        (units.prefixed(0, "B"), "0 B"),
        (units.prefixed(999, "B"), "999 B"),
        (units.prefixed(999.6, "B"), "1 kB"),
        (units.prefixed(7.75e9, "B"), "7.75 GB"),
        (units.prefixed(999_499, "B"), "999 kB"),
        (units.prefixed(999_600, "B"), "1 MB"),
        (units.prefixed(1.73e12, "FLOPs"), "1.73 TFLOPs"),
        (units.prefixed(2e15, "FLOPs"), "2 PFLOPs"),
    ],
)
def test_numbers_are_said_in_one_way(text, expected):
    assert text == expected


def test_one_prefix_serves_a_column():
    assert units.prefix(3e9, "B") == (1e-9, "GB")
    assert units.prefix(12.0, "FLOPs") == (1.0, "FLOPs")
