import csv
import math

import pytest

from tests.synthetic import record, sweep
from x2l.analysis.points import of_several_settings, pareto, points, telling_apart, write_points
from x2l.analysis.scoring import outcomes


def only(records, **kwargs):
    (point,) = points(records, **kwargs)
    return point


def test_one_point_for_each_cell():
    records = sweep(videos=4, questions=2)
    rows = points(records)
    cells = {(r.run_id, r.selector, r.top_k) for r in records}
    assert {(p.run_id, p.selector, p.top_k) for p in rows} == cells
    assert len(rows) == len(cells) == 1 + 3 * (2 + 3 * 4)


def test_the_same_records_twice_count_once():
    records = sweep(videos=4, questions=2)
    assert points([*records, *records]) == points(records)


def test_the_order_of_the_records_is_no_matter(tmp_path):
    """A resumed run wrote them in another order; its CSV must be the same to the last digit."""
    records = [
        record(
            sample_id=f"v{i % 7}/q{i}",
            video_id=f"v{i % 7}",
            recall=i / 97,
            correct=float(i % 3 > 0),
        )
        for i in range(97)
    ]
    for name, order in (("a", records), ("b", records[50:] + records[:50])):
        write_points(tmp_path / name, points(order))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unparsed_answers_are_wrong_and_counted():
    """A method that breaks the answer's form must not be judged on the few answers it still forms."""
    values = (1.0, 1.0, 0.0, None)
    point = only([record(sample_id=str(i), correct=c) for i, c in enumerate(values)])
    assert (point.accuracy, point.n, point.parse_failures) == (2 / 4, 4, 1)
    assert point.accuracy_parsed == pytest.approx(2 / 3)


def test_a_tasks_share_of_the_prefill_is_that_of_its_questions():
    records = [
        record(sample_id=f"v0/{task}{i}", task=task, flops_prefill=600)
        for task in ("retrieval", "counting")
        for i in range(3)
    ]
    rows = points(records, by_task=True)
    assert {row.task: row.flops_prefill for row in rows} == {
        "all": 100.0,
        "retrieval": 100.0,
        "counting": 100.0,
    }


def test_the_front_leaves_out_cells_that_know_the_truth():
    rows = points(
        [
            record(sample_id="a", selector="oracle", correct=1.0),
            record(sample_id="a", selector="attention", top_k="gt", correct=1.0),
            record(sample_id="a", selector="attention", top_k=1, correct=0.0),
        ]
    )
    assert [row.selector + str(row.top_k) for row in pareto(rows, "flops")] == ["attention1"]


def test_a_circular_group_is_one_unit():
    records = [
        record(sample_id=f"{g}{t}", group=g, correct=float(t != wrong))
        for g, wrong in (("a", None), ("b", 2))
        for t in range(4)
    ]
    assert sorted(o.value for o in outcomes(records)) == [0.0, 1.0]
    assert only(records).n == 2


def test_video_stages_are_shared_out_among_its_questions():
    """Two videos, three and one questions: pre-fill 300 + 500 over 4 questions."""
    records = [
        record(sample_id=f"a{q}", video_id="a", flops_prefill=300, flops_decode=10)
        for q in range(3)
    ] + [record(sample_id="b0", video_id="b", flops_prefill=500, flops_decode=30)]
    point = only(records)
    assert point.flops_prefill == (300 + 500) / 4
    assert point.flops_decode == (3 * 10 + 30) / 4
    stages = ("vision", "prefill", "compression", "selection", "reload", "decode")
    assert point.flops == sum(getattr(point, f"flops_{stage}") for stage in stages)
    assert point.flops_next == point.flops_selection + point.flops_reload + point.flops_decode
    assert point.flops_first > point.flops > point.flops_next
    assert point.questions_per_video == 2


def test_kv_share_is_of_the_uncompressed_cache():
    records = [
        record(sample_id="a", kv_bytes_resident=10, kv_bytes_full=100),
        record(sample_id="b", kv_bytes_resident=90, kv_bytes_full=300),
    ]
    assert only(records).kv_share == 100 / 400


def test_recall_is_over_the_questions_that_have_truth():
    records = [
        record(sample_id="a", recall=0.5),
        record(sample_id="b", gt_chunks=None, recall=None, precision=None),
    ]
    assert only(records).recall == 0.5
    assert math.isnan(only(records[1:]).recall)


def test_points_of_tasks_follow_the_one_of_all():
    records = [record(sample_id=t, task=t, correct=float(t == "ordering")) for t in "ab"]
    records.append(record(sample_id="o", task="ordering"))
    rows = points(records, by_task=True)
    assert {p.task: p.n for p in rows} == {"all": 3, "a": 1, "b": 1, "ordering": 1}
    assert {p.task: p.accuracy for p in rows}["ordering"] == 1.0


@pytest.mark.parametrize(
    ("changes", "control"),
    [
        ({"selector": "all", "top_k": None}, "all-low"),
        ({"selector": "none", "top_k": None}, "all-high"),
        ({"selector": "none", "top_k": None, "ratio_low": 1.0, "ratio_high": 1.0}, "full"),
        ({"selector": "attention"}, None),
    ],
)
def test_controls_are_recognised(changes, control):
    assert only([record(**changes)]).control == control


def test_k_is_in_order_and_gt_last():
    rows = points([record(top_k=k) for k in (4, "gt", 0, 16, 2)])
    assert [p.top_k for p in rows] == [0, 2, 4, 16, "gt"]


def test_pareto_front_has_no_beaten_point():
    rows = [point for point in points(sweep()) if not point.knows_truth]
    front = pareto(rows, "kv_share")
    assert front
    for point in front:
        beaten = [p for p in rows if p.kv_share <= point.kv_share and p.accuracy > point.accuracy]
        assert not beaten
    missing = [p for p in rows if p not in front]
    for point in missing:
        assert any(f.kv_share <= point.kv_share and f.accuracy >= point.accuracy for f in front)


def test_csv_has_a_row_for_each_point(tmp_path):
    rows = points(sweep(videos=3, questions=2))
    write_points(tmp_path / "points.csv", rows)
    with (tmp_path / "points.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in read] == [row.accuracy for row in rows]
    assert {row["control"] for row in read} == {"full", "all-low", "all-high", ""}
    before = (tmp_path / "points.csv").read_bytes()
    write_points(tmp_path / "points.csv", rows)
    assert (tmp_path / "points.csv").read_bytes() == before


def vnbench_records(right, mean="tasks"):
    """Two types of three and one questions, four tries each; `right` names the questions all right."""
    questions = {"ret_edit1": ("a", "b", "c"), "cnt_edit1": ("d",)}
    return [
        record(
            sample_id=f"{name}_{turn}",
            video_id=name,
            group=name,
            task=kind,
            tags={"ability": kind[:3], "kind": "x"},
            correct=float(name in right or turn != 2),
            mean=mean,
            protocol="official",
        )
        for kind, names in questions.items()
        for name in names
        for turn in range(4)
    ]


def test_a_mean_over_tasks_counts_every_task_alike():
    tasks = only(vnbench_records("ad"))
    assert (tasks.accuracy, tasks.n, tasks.videos) == (pytest.approx((1 / 3 + 1) / 2), 4, 4)
    questions = only(vnbench_records("ad", mean="questions"))
    assert questions.accuracy == pytest.approx(2 / 4)
    assert tasks.low <= tasks.accuracy <= tasks.high
    assert (tasks.low, tasks.high) != (questions.low, questions.high)
    assert tasks.protocol == "official"


def test_parts_are_tasks_and_the_tags_that_have_several_values():
    rows = points(vnbench_records("ad"), by_task=True)
    assert rows[0].task == "all"
    assert {row.task: row.n for row in rows} == {
        "all": 4,
        "ret_edit1": 3,
        "cnt_edit1": 1,
        "ability=ret": 3,
        "ability=cnt": 1,
    }
    assert {row.task: row.accuracy for row in rows}["ability=ret"] == pytest.approx(1 / 3)


def test_a_question_of_two_tasks_counts_in_both_and_once_in_all():
    records = [record(sample_id="a", task="x + y"), record(sample_id="b", task="y", correct=0.0)]
    rows = {row.task: (row.n, row.accuracy) for row in points(records, by_task=True)}
    assert rows == {"all": (2, 0.5), "x": (1, 1.0), "y": (2, 0.5)}


def test_a_protocol_may_leave_unparsed_answers_out_but_they_are_counted():
    values = ((1.0, "A"), (0.0, "B"), (None, None))
    records = [
        record(sample_id=str(i), correct=c, parsed=p, unparsed="left out")
        for i, (c, p) in enumerate(values)
    ]
    point = only(records)
    assert (point.accuracy, point.n, point.parse_failures) == (0.5, 2, 1)


def test_a_guess_counts_in_the_headline_and_among_the_unparsed():
    records = [
        record(sample_id="a", correct=1.0, parsed=None, guess="A", unparsed="guessed"),
        record(sample_id="b", correct=0.0, parsed="B", unparsed="guessed"),
    ]
    point = only(records)
    assert (point.accuracy, point.n, point.parse_failures) == (0.5, 2, 1)
    assert point.accuracy_parsed == 0.0


def test_answers_that_are_kept_back_have_no_accuracy():
    records = [record(sample_id=str(i), answer=None, correct=None, parsed="A") for i in range(3)]
    point = only(records)
    assert math.isnan(point.accuracy) and (point.n, point.parse_failures) == (0, 0)


def test_protocols_tell_cells_apart():
    rows = points(
        [record(run_id="a", protocol="official"), record(run_id="b", protocol="lmms_eval")]
    )
    assert telling_apart(rows) == ["protocol"]


def test_settings_tell_apart_what_nothing_else_does():
    """hit_rate at three rates in one run; that other selectors have settings of their own is no news."""
    rates = [record(selector="hit_rate", selector_config=c, top_k=k) for c in "abc" for k in (1, 2)]
    other = [record(selector="attention", selector_config="d", top_k=k) for k in (1, 2)]
    assert telling_apart(points([*rates, *other])) == ["selector_config"]
    assert of_several_settings(points([*rates, *other])) == {"hit_rate"}
    assert telling_apart(points([*rates[:2], *other])) == []
    seeds = [record(selector="random", run_id=c, selector_config=c, seed=ord(c)) for c in "ab"]
    assert telling_apart(points(seeds)) == ["seed"] and not of_several_settings(points(seeds))
    runs = [record(run_id=run) for run in "ab"]
    assert telling_apart(points(runs)) == ["run_id"]


def test_an_incomplete_group_does_not_count():
    """Three right tries of four, alone in the cell: no unit yet."""
    point = only([record(sample_id=f"a{t}", group="a") for t in range(3)])
    assert point.n == 0 and math.isnan(point.accuracy)
    pairs = [record(sample_id=f"a{t}", group="a", tries=2) for t in range(2)]
    assert (only(pairs).n, only(pairs).accuracy) == (1, 1.0)
