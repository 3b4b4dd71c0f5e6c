from pathlib import Path

from tests.synthetic import record, sweep
from x2l.analysis import run_metrics
from x2l.analysis.points import points
from x2l.analysis.sweep_tables import sweep_tables
from x2l.runs.trackers.base import NoTracker, place_id, written_anew

RECORDS = sweep(compressors=("tome",), videos=3, questions=3)
TABLES = sweep_tables(points(RECORDS), points(RECORDS, by_task=True))


def test_no_tracker_takes_the_same_and_writes_nothing(tmp_path):
    options = {"folder": tmp_path / "run", "run_id": "a", "name": "n", "group": "g", "config": {}}
    with NoTracker(**options) as tracker:
        tracker.log({"a": 1.0})
        tracker.summarize({"a": 1.0})
    assert not tracker.track_sweep(TABLES, tmp_path / "curve.png", [])
    assert tracker.how_to_see([tmp_path]) == []
    assert not (tmp_path / "run").exists()


def test_folders_of_one_name_have_ids_of_their_own():
    first, second = Path("outputs/sweeps/a/tome"), Path("outputs/sweeps/b/tome")
    assert place_id(first) != place_id(second)
    assert place_id(first) == place_id(Path("elsewhere").resolve() / "sweeps" / "a" / "tome")


def test_only_what_has_changed_is_written_anew(tmp_path):
    file, calls = tmp_path / "points.csv", []
    file.write_text("a")

    def write(tables=TABLES, more="offline"):
        return written_anew(tmp_path / "home", tables, [file], more, lambda: calls.append(1))

    assert write() and not write() and len(calls) == 1
    assert write(more="online")
    file.write_text("b")
    assert write(more="online") and not write(more="online")
    fewer = sweep_tables(points(RECORDS[:9]), points(RECORDS[:9], by_task=True))
    assert write(fewer, "online") and len(calls) == 4


def test_what_all_cells_share_is_the_configuration_and_what_differs_has_a_column():
    assert TABLES.config["model"] == "x2l_tiny" and TABLES.config["frames"] == 128
    assert "ratio.high" not in TABLES.config and "selector" not in TABLES.config
    other = points([*RECORDS, record(run_id="b", chunk_frames=16, top_k=3)])
    tables = sweep_tables(other, other)
    at = tables.columns.index("chunk_frames")
    assert {row[at] for row in tables.rows} == {8, 16} and "chunk_frames" not in tables.config


def test_settings_of_one_selector_are_lines_of_the_chart():
    records = [
        record(selector="hit_rate", selector_config=c, top_k=k) for c in "ab" for k in (1, 2)
    ]
    records += [record(selector="attention", selector_config="c", top_k=k) for k in (1, 2)]
    rows = points(records)
    lines = {
        "tome hit_rate settings a",
        "tome hit_rate settings b",
        "tome attention",
    }
    tables = sweep_tables(rows, rows)
    assert {row[0] for row in tables.rows} == lines
    assert all({line for line, _, _ in chart.lines} == lines for chart in tables.charts)


def test_fronts_are_of_comparable_cells_and_hold_no_bound():
    shown = dict(kv_bytes_stored=1000)
    records = [
        record(run_id="a", model="a", correct=0.0, **shown),
        record(run_id="b", model="b", correct=1.0, kv_bytes_stored=10),
        record(run_id="c", model="a", selector="oracle", correct=1.0, kv_bytes_stored=10),
    ]
    rows = points(records)
    (chart,) = (c for c in sweep_tables(rows, rows).charts if c.name == "kv_bytes")
    assert chart.front == (
        ("tome attention a k=1", 1.0, 0.0),
        ("tome attention b k=1", 0.01, 100.0),
    )
    assert chart.x == "kv_bytes_kB" and chart.steps == 1000


def test_names_say_what_cells_are_and_interval_ends_are_no_levels():
    told = run_metrics.final(RECORDS)
    cells = {name.split("/")[1] for name in told if name.startswith("final/")}
    assert {"full", "all-low", "all-high", "oracle k=1"} <= cells
    assert not {cell for cell in cells if "none" in cell}
    assert told["final/full/accuracy_ci95_lower"] <= told["final/full/accuracy"]
    assert not {name for name in told if name.endswith(("accuracy_low", "accuracy_high"))}
    assert {"accuracy/full", "accuracy/all-high"} <= run_metrics.running(RECORDS).keys()


def test_every_answer_is_a_row():
    one = record(prediction="A.", correct=0.0, answer="B", gt_chunks=(1, 2))
    answers = run_metrics.answer_table([one, record(sample_id="v0/q1", answer=None, correct=None)])
    first, second = (dict(zip(answers.columns, row, strict=True)) for row in answers.rows)
    assert (first["prediction"], first["right"], first["answer"]) == ("A.", "no", "B")
    assert (first["selected_chunks"], first["ground_truth_chunks"]) == ("0", "1 2")
    assert second["right"] == "unknown" and answers.accuracies == (("attention k=1", 0.0),)


def test_every_line_of_a_chart_can_be_seen():
    chart = TABLES.charts[0]
    lines = [line for line, _, _ in chart.lines]
    assert min(lines.count(line) for line in set(lines)) > 1
    level = [accuracy for line, _, accuracy in chart.lines if line == "full"]
    assert len(level) == 2 and level[0] == level[1]
