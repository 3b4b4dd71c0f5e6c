"""Answers and cells as DataFrames, and one line to draw them."""

import json

import matplotlib
import pytest

import x2l
from tests.synthetic import sweep
from x2l.analysis.points import points
from x2l.runs.records import RecordWriter
from x2l.selectors.calibration import load_calibration

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    with RecordWriter(path / "records.jsonl") as writer:
        for one in sweep(ratios_high=(8.0, 32.0), videos=4):
            writer.append(one)
    return path


def test_frames_hold_every_answer_and_cell(folder):
    answers, cells = x2l.records(folder), x2l.points(str(folder.parent / f"{folder.name[:-1]}*"))
    expected = points(sweep(ratios_high=(8.0, 32.0), videos=4))
    assert len(answers) == len(sweep(ratios_high=(8.0, 32.0), videos=4))
    assert list(cells["accuracy"]) == [point.accuracy for point in expected]
    assert list(cells["ratio.high"]) == [p.condition.traits["ratio.high"] for p in expected]
    assert set(x2l.points(folder, by_task=True)["task"]) > {"all", "retrieval", "counting"}


def test_numbers_are_joined_in_order_and_bounds_are_dashed(folder):
    cells = x2l.points(folder)
    shown = cells[
        (cells["compressor"] == "tome") & cells["top_k"].notna() & (cells["ratio.high"] == 8)
    ]
    shown = shown.sample(frac=1, random_state=1).assign(top_k=lambda df: df["top_k"].astype(int))
    axes = x2l.plot.curve(shown, x="top_k")
    lines = {box.get_label(): box.lines[0] for box in axes.containers}
    assert set(lines) == set(shown["selector"])
    for name, line in lines.items():
        of_line = shown[shown["selector"] == name].sort_values("top_k")
        assert list(line.get_xdata()) == list(of_line["top_k"])
        assert list(line.get_ydata()) == pytest.approx(list(100 * of_line["accuracy"]))
    assert lines["oracle"].get_linestyle() == "--" and lines["random"].get_linestyle() == "-"


def test_names_stand_side_by_side_and_are_not_joined(folder):
    cells = x2l.points(folder)
    shown = cells[(cells["selector"] == "none") & cells["ratio.high"].notna()]
    axes = x2l.plot.curve(shown, x="compressor", hue=["selector", "ratio.high"])
    assert [text.get_text() for text in axes.get_xticklabels()] == list(
        dict.fromkeys(shown["compressor"])
    )
    assert {box.lines[0].get_linestyle() for box in axes.containers} == {"None"}


def test_cells_are_never_mixed_up_in_a_line(folder):
    cells = x2l.points(folder)
    with pytest.raises(x2l.UserError, match=r"differ in .*compressor.*add it to hue"):
        x2l.plot.curve(cells, x="top_k")
    with pytest.raises(x2l.UserError, match="ratio.mid: is no column of this frame"):
        x2l.plot.curve(cells, x="ratio.mid")
    with pytest.raises(x2l.UserError, match="give x2l.points"):
        x2l.plot.curve(x2l.records(folder))


def test_no_folder_is_told():
    with pytest.raises(x2l.UserError, match="no such folder; give a run or a sweep"):
        x2l.points("nowhere/*")


def test_heads_are_a_map_of_layers_by_heads_with_those_in_use_marked(tmp_path):
    axes = x2l.plot.heads()
    (image,), (marks,) = axes.images, axes.collections
    best = load_calibration("x2l_tiny_heads", "keys", "f")
    assert image.get_array().shape == (best.layers, best.heads)
    assert [tuple(at) for at in marks.get_offsets()] == [
        (h, n) for n, h in best.ranked[: best.best]
    ]
    layer, head = best.ranked[0]
    assert image.get_array()[layer, head] == image.get_array().max()
    assert x2l.plot.heads(score="attention").get_title() != axes.get_title()
    published = tmp_path / "heads.json"
    args = {"model": "m", "tasks": ["t"]}
    published.write_text(json.dumps({"head_score_list": [["0-1", 0.5]], "args": args}))
    for wrong, said in (
        (dict(score="values"), "score=values: must be one of keys, attention"),
        (dict(calibration="nowhere.json"), "calibration=nowhere.json: cannot be read"),
        (dict(calibration=published), "has no score of every head"),
    ):
        with pytest.raises(x2l.UserError, match=said):
            x2l.plot.heads(**wrong)
