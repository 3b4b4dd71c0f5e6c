from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.synthetic import condition, levels, sweep
from x2l.analysis import figure_style
from x2l.analysis.cell_names import names
from x2l.analysis.curves import draw
from x2l.analysis.figure_style import (
    compressor_styles,
    selector_styles,
    style_of_baseline,
    style_of_compressor,
    style_of_level,
    style_of_selector,
    style_of_stage,
)
from x2l.analysis.points import points
from x2l.analysis.report.chart import group_values
from x2l.engine.stages import STAGES

# Machado, Oliveira and Fernandes 2009, full deficiency, for linear RGB.
SEEN_BY = {
    "all": np.eye(3),
    "protanopes": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopes": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}
LAB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, seen_by):
    """CIELAB of a colour as some readers see it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = LAB @ np.clip(np.array(SEEN_BY[seen_by]) @ linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen_by", SEEN_BY)
def test_the_usual_looks_are_told_apart_by_colour_blind_readers(seen_by):
    selectors = ("attention", "random", "oracle", "embedding", "retriever", "equal_kv_bytes")
    groups = (
        [style_of_selector(name) for name in selectors],
        [style_of_compressor(name) for name in ("tome", "kmeans", "key_norm", "mean_pool")],
        [style_of_level(index, 3) for index in range(3)],
    )
    for styles in groups:
        for a, b in combinations(styles, 2):
            gap = np.linalg.norm(lab(a.colour, seen_by) - lab(b.colour, seen_by))
            assert gap > 9 and a.marker != b.marker, (a, b, gap)


def test_no_two_names_of_the_table_look_alike():
    for table in (figure_style._SELECTORS, figure_style._COMPRESSORS):
        assert len({(style.colour, style.marker) for style in table.values()}) == len(table)
    assert len({style_of_stage(stage).colour for stage in ("read", *STAGES)}) == len(STAGES) + 1


def test_a_name_of_ones_own_has_a_look_that_is_its_own_in_every_picture():
    assert style_of_compressor("mine") == style_of_compressor("mine") != style_of_compressor("his")
    beside = compressor_styles(["mine", "tome", "his", "snapkv"])
    assert beside["tome"] == style_of_compressor("tome") and beside["mine"] == style_of_compressor(
        "mine"
    )
    crowd = selector_styles({f"mine{n}": "method" for n in range(9)} | {"attention": "method"})
    assert len({s.colour for s in crowd.values()}) == len({s.marker for s in crowd.values()}) == 10
    assert crowd["attention"] == style_of_selector("attention")


def test_settings_of_a_selector_share_its_colour_and_bounds_are_dashed():
    styles = selector_styles(
        {f"hit_rate settings {c}": "bound" for c in "abc"} | {"oracle": "bound"}
    )
    rates = [styles[f"hit_rate settings {c}"] for c in "abc"]
    assert {style.colour for style in rates} == {style_of_selector("hit_rate").colour}
    assert len({style.marker for style in rates}) == 3
    assert {style.line for style in styles.values()} == {"--"} != {style_of_selector("oracle").line}


def test_levels_run_from_the_finest_to_the_coarsest_and_baselines_have_their_marks():
    assert style_of_level(0, 3).colour == style_of_level(0, 2).colour == style_of_level(0, 1).colour
    assert style_of_level(2, 3).colour == style_of_level(1, 2).colour
    three = levels(low=2.0, mid=8.0, high=32.0)
    single = [condition(levels=three, selector="all", single_level=e.name) for e in three]
    full = condition(selector="none", ratio_low=1.0, ratio_high=1.0)
    assert [style_of_baseline(c).marker for c in (*single, full)] == ["^", "d", "v", "*"]


def test_the_report_and_the_curves_draw_what_they_share_alike():
    rows = points(sweep(compressors=("tome", "key_norm"), videos=3, questions=2))
    panels = draw(rows, "title").axes[1]
    marks = {(line.get_marker(), line.get_color()) for line in panels.lines}
    for selector in ("attention", "oracle", "random"):
        style = style_of_selector(selector)
        assert (style.marker, style.colour) in marks
    group = group_values(rows, names(p.condition for p in rows), {})
    looks = {look["name"]: look for look in group["looks"]}
    for selector in ("attention", "oracle", "random"):
        assert looks[selector]["marker"] == style_of_selector(selector).marker
        assert looks[selector]["bound"] == (selector == "oracle")
    assert looks["full"]["marker"] == "*" and not looks["full"]["bound"]
    colours = {entry["name"]: entry["colour"] for entry in group["compressors"]}
    assert colours == {name: style_of_compressor(name).colour for name in ("key_norm", "tome")}
