import itertools
import math

import pytest
from matplotlib.colors import to_hex

from tests.synthetic import record, sweep
from x2l.analysis.curve_layout import CHOICE, layout
from x2l.analysis.curves import NothingToDraw, draw, save
from x2l.analysis.figure_style import OTHERS
from x2l.analysis.plotting import log_ticks
from x2l.analysis.points import points
from x2l.analysis.points_table import table

ROWS = points(sweep())
TOME = [p for p in ROWS if p.condition.compressor == "tome" and p.condition.baseline != "full"]


@pytest.fixture(scope="module")
def figure():
    return draw(ROWS, "title")


def lines(axes):
    """Lines of a panel that stand for a selector: those with four points."""
    return [line for line in axes.lines if len(line.get_xdata()) == 4]


def test_a_panel_for_each_compressor_and_kind_of_compute(figure):
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["key_norm", "mean_pool", "tome"]
    assert len(figure.axes) == 2 * 3
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()] == [
        "KV bytes stored of what is answered from (% of uncompressed)",
        "compute of one more question on a pre-filled video (MFLOPs)",
    ]
    assert figure.axes[0].get_ylabel() == "accuracy (%)"
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}


def test_lines_go_through_the_points(figure):
    axes = figure.axes[2]
    drawn = {tuple(line.get_ydata()) for line in lines(axes)}
    expected = set()
    for selector in ("attention", "oracle", "random"):
        own = [p for p in TOME if p.condition.selector == selector]
        own.sort(key=lambda p: p.kv_share)
        expected.add(tuple(100 * p.accuracy for p in own))
    assert drawn == expected


def test_every_point_has_its_interval(figure):
    axes = figure.axes[2]
    full = [p for p in ROWS if p.condition.baseline == "full"]
    expected = [(p.accuracy_low, p.accuracy_high) for p in [*TOME, *full]]
    bars = {
        (round(low, 6), round(high, 6))
        for container in axes.containers
        for (_, low), (_, high) in container[2][0].get_segments()
    }
    assert bars == {(round(100 * low, 6), round(100 * high, 6)) for low, high in expected}


def test_points_are_labelled_by_k(figure):
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"k=0", "1", "2", "4"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (4, 120, [5, 10, 20, 50, 100]),
        (0.12, 0.31, [0.15, 0.2, 0.3]),
        (3, 4000, [10, 100, 1000]),
        (0.0006, 8000, [0.001, 0.1, 10, 1000]),
        (1.28, 1.72, [1.3, 1.4, 1.5, 1.6, 1.7]),
    ],
)
def test_ticks_are_few_and_round(low, high, expected):
    assert log_ticks(low, high) == pytest.approx(expected)


def test_legend_names_selectors_controls_and_front_and_stays_off_the_panels(figure):
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "attention",
        "oracle (bound)",
        "random",
        "full (no compression)",
        "all-low",
        "all-high",
        "dashed: told where the answer lies",
        "guessing: 25 %",
        "Pareto front of all panels",
        "bar: 95 % interval, clustered by video",
    ]
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_selectors_keep_their_colour_in_every_panel(figure):
    colours = [{to_hex(line.get_color()) for line in lines(axes)} for axes in figure.axes]
    assert all(found == colours[0] and len(found) == 3 for found in colours)


def test_cells_of_other_ratios_get_panels_of_their_own():
    figure = draw(points(sweep(("tome",), ratios_high=(8.0, 32.0), videos=2)), "title")
    assert [axes.get_title() for axes in figure.axes] == 2 * ["high 8x", "high 32x"]
    assert figure.get_suptitle() == "title\ntome"


def test_cells_that_differ_in_nothing_shown_are_not_joined():
    """Same labels, other runs (say, other benchmark settings): two lines, not one zigzag."""
    records = [
        record(run_id=run, top_k=k, kv_bytes_stored=1000 * (k + 1))
        for run in "ab"
        for k in range(4)
    ]
    figure = draw(points(records), "title")
    assert [len(lines(axes)) for axes in figure.axes] == [2, 2]
    assert {"run a", "run b"} < {text.get_text() for text in figure.legends[0].get_texts()}


def test_equal_points_give_equal_bytes(tmp_path):
    rows = points(sweep(compressors=("tome",)))
    for name in "ab":
        (tmp_path / name).mkdir()
        save(draw(rows, "title"), tmp_path / name)
    for name in ("curve.png", "curve.pdf"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes() and len(first) > 5000
        assert b"CreationDate" not in first  # equal within a second only, if it were there


def test_settings_of_one_selector_are_lines_of_their_own():
    records = [
        record(
            selector="hit_rate",
            role="bound",
            selector_config=c,
            top_k=k,
            kv_bytes_stored=1000 * (k + 1),
        )
        for c in "abc"
        for k in range(4)
    ]
    figure = draw(points(records), "title")
    assert [len(lines(axes)) for axes in figure.axes] == [3, 3]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[:3] == [f"hit_rate settings {c} (bound)" for c in "abc"]


def test_protocols_have_fronts_and_full_lines_of_their_own():
    """The same cells by two protocols, one of which finds all answers right: no panel may show both."""
    records = [
        record(
            protocol=protocol,
            run_id=protocol,
            correct=correct,
            ratio_low=ratio,
            ratio_high=ratio,
            options=None,
        )
        for protocol, correct in (("official", 1.0), ("lmms_eval", 0.0))
        for ratio in (1.0, 8.0)
    ]
    figure = draw(points(records), "title")
    levels = {
        axes.get_title(): {
            float(y)
            for line in axes.lines
            if line.get_drawstyle() == "steps-post" or list(line.get_xdata()) == [0, 1]
            for y in line.get_ydata()
        }
        for axes in figure.axes
    }
    assert levels == {"protocol lmms_eval": {0.0}, "protocol official": {100.0}}


@pytest.mark.parametrize("correct", [0.0, 1.0])
def test_cells_with_all_or_nothing_right_are_drawn(correct):
    """At n = 21 the plain formula's lower end is above 0 by rounding, and matplotlib refuses that."""
    for videos in range(2, 40):
        cell = [record(sample_id=str(v), video_id=str(v), correct=correct) for v in range(videos)]
        for point in points(cell):
            assert point.accuracy_low <= point.accuracy <= point.accuracy_high
    draw(points(cell), "title")


def test_unparsed_answers_that_count_as_wrong_are_drawn():
    assert draw(points([record(parsed=None, correct=None)]), "title").axes


def test_nothing_that_counts_is_an_error():
    with pytest.raises(
        NothingToDraw, match="1 answers could not be parsed and the protocol leaves"
    ):
        draw(points([record(correct=None, parsed=None, unparsed="left out")]), "title")
    with pytest.raises(NothingToDraw, match="needle keeps its answers back"):
        draw(points([record(correct=None, answer=None)]), "title")


def test_table_has_a_line_for_each_point_and_names_what_differs():
    lines_of_table = table(ROWS).splitlines()
    assert len(lines_of_table) == 1 + len(ROWS)
    assert lines_of_table[0].split()[:4] == ["compressor", "selector", "k", "accuracy"]
    two = points([record(ratio_high=ratio, run_id=str(ratio)) for ratio in (8.0, 32.0)])
    assert table(two).splitlines()[0].split()[3:5] == ["ratio.high", "accuracy"]
    full = next(line for line in lines_of_table if " full " in line)
    point = next(p for p in ROWS if p.condition.baseline == "full")
    assert f"{100 * point.accuracy:.1f}" in full and "100.0" in full


def grid(compressors, chunks, ratios, selectors=("keys",)):
    """One answer a cell of a sweep of several axes; bytes and FLOPs fall with the ratio."""
    cells = itertools.product(compressors, chunks, ratios, selectors)
    return points(
        record(
            compressor=compressor,
            chunk_frames=frames,
            ratio_high=float(ratio),
            selector=selector,
            run_id=f"{compressor}{frames}{ratio}",
            kv_bytes_stored=20000 // ratio,
            flops_decode=10**9 // ratio,
            correct=float(len(compressor) > 3),
        )
        for compressor, frames, ratio, selector in cells
    )


def test_the_sweep_of_several_numbers_is_a_line_over_one_of_them():
    """36 panels with a dot each, before."""
    compressors = "key_norm", "tome", "mean_pool"
    figure = draw(grid(compressors, (16, 8), (32, 8, 16)), "title")
    assert [axes.get_title() for axes in figure.axes] == 2 * [
        "8 frames a chunk",
        "16 frames a chunk",
    ]
    for axes in figure.axes:
        joined = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 3]
        assert len(joined) == 3 and all(x == sorted(x, reverse=True) for x in joined)
    assert figure.get_suptitle() == "title\nkeys, k=1"
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["high 8x", "16x", "32x"]


def test_there_are_never_more_panels_and_colours_than_can_be_read():
    rows = grid([f"method{n}" for n in range(14)], (2, 4, 8, 16), (8, 16), ("keys", "attention"))
    placed = layout(rows, 6)
    assert placed.joined == "chunk_frames" and placed.columns == (CHOICE, "ratio.high")
    assert len(placed.panels) == 4 and len(placed.styles) == 14 and len(placed.others) == 6
    many = layout(grid("abcdefg", range(1, 9), range(2, 9)), 6)  # one panel a value would be 7
    assert len(many.panels) <= 6 and many.joined == "chunk_frames"
    for p in rows:
        assert sum(placed.shows(p.condition, panel) for panel in placed.panels) == 1


def test_compute_that_is_alike_along_a_line_gives_way_to_what_the_line_joins():
    records = [
        record(chunk_frames=frames, run_id=str(frames), selector="none", kv_bytes_stored=1000)
        for frames in (2, 4, 8)
    ]
    figure = draw(points(records), "title")
    assert [axes.get_xlabel() for axes in figure.axes] == ["frames a chunk"]
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert list(line.get_xdata()) == pytest.approx([2, 4, 8])


def test_of_equal_lines_both_are_seen():
    records = [
        record(selector=name, top_k=k, kv_bytes_stored=1000 * (k + 1))
        for name in ("keys", "attention")
        for k in (1, 2)
    ]
    axes = draw(points(records), "title").axes[0]
    widths = {
        line.get_linewidth()
        for line in axes.lines
        if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
    }
    assert len(widths - {4}) >= 2


def test_the_chance_of_guessing_is_by_the_protocol():
    two = [record(options=2), record(options=4, sample_id="b", task="counting")]
    assert points(two)[0].chance == pytest.approx(3 / 8)
    group = [record(options=4, group="g", tries=2, sample_id=str(n)) for n in range(2)]
    assert points(group)[0].chance == pytest.approx(1 / 16)
    by_task = [
        record(options=n, sample_id=str(i), task=task, mean="tasks")
        for i, (n, task) in enumerate([(2, "a"), (2, "a"), (4, "b")])
    ]
    assert points(by_task)[0].chance == pytest.approx(3 / 8)
    assert math.isnan(points([record(options=None)])[0].chance)


def test_runs_that_clash_are_points_by_themselves_and_split_no_other_line():
    """Two benchmark settings in one folder: a cell of both must not be joined, those of one are a line all the same."""
    records = [
        record(ratio_high=ratio, run_id=run, selector="none", kv_bytes_stored=int(9000 / ratio))
        for ratio, run in ((8.0, "a"), (8.0, "b"), (16.0, "c"), (32.0, "d"), (64.0, "e"))
    ]
    placed = layout(points(records), 6)
    assert placed.joined == "ratio.high" and placed.columns == ()
    assert list(placed.styles) == ["", "run a", "run b"]


def test_baselines_of_other_ratios_and_compressors_are_marks_that_are_told_apart():
    """No line joins what differs in more than one number; those of a compressor that chooses nothing are grey."""
    chosen = [
        record(run_id="a", top_k=k, kv_bytes_stored=1000 * (k + 1), compressor="kmeans")
        for k in (1, 2, 4)
    ]
    alike = [
        record(
            run_id=f"{compressor}{low}",
            compressor=compressor,
            ratio_low=low,
            ratio_high=4 * low,
            selector=selector,
            kv_bytes_stored=int(20_000 / low),
            correct=float(low > 3),
        )
        for compressor in ("kmeans", "tome")
        for low in (2.0, 4.0)
        for selector in ("all", "none")
    ]
    figure = draw(points([*chosen, *alike]), "title")
    axes = figure.axes[0]
    joined = [line for line in axes.lines if line.get_linestyle() != "None"]
    assert [len(line.get_xdata()) for line in joined if len(line.get_xdata()) == 3] == [3]
    marked = [c[0] for c in axes.containers if len(c[0].get_xdata()) == 1]
    grey = [mark for mark in marked if to_hex(mark.get_color()) == OTHERS]
    assert sorted(mark.get_marker() for mark in grey) == ["^", "^", "v", "v"]
    straight = [line for line in joined if line.get_drawstyle() == "default"]  # but for the front
    assert not [line for line in straight if len(set(line.get_ydata())) > 1]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"all-low", "all-low of tome", "all-high", "all-high of tome"} <= set(labels)
