import csv
import math

import pytest

from tests.synthetic import condition, levels, record, sweep
from x2l.analysis.cell_names import names, varying
from x2l.analysis.points import pareto, points, write_points
from x2l.analysis.scoring import outcomes


def only(records, **kwargs):
    (point,) = points(records, **kwargs)
    return point


def test_one_point_for_each_cell():
    records = sweep(videos=4, questions=2)
    rows = points(records)
    assert {p.condition for p in rows} == {r.condition for r in records}
    assert len(rows) == 1 + 3 * (2 + 3 * 4)


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
    assert (point.accuracy, point.questions, point.parse_failures) == (2 / 4, 4, 1)
    assert point.accuracy_parsed == pytest.approx(2 / 3)


def test_a_tasks_share_of_the_prefill_is_that_of_its_questions():
    records = [
        record(sample_id=f"v0/{task}{i}", task=task, flops_prefill=600)
        for task in ("retrieval", "counting")
        for i in range(3)
    ]
    rows = points(records, by_task=True)
    assert {row.task: row.flops["prefill"] for row in rows} == {
        "all": 100.0,
        "retrieval": 100.0,
        "counting": 100.0,
    }


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({"selector": "oracle"}, False),
        ({"selector": "random_as_oracle", "role": "bound"}, False),
        ({"top_k": "gt", "role": "bound"}, False),
        ({"selector": "oracle_free", "role": "method"}, True),
        ({"selector": "none", "role": "bound"}, True),  # all chunks at one level: nothing is told
    ],
)
def test_the_front_is_for_what_was_not_told_the_truth_whatever_it_is_called(changes, stands):
    rows = points([record(correct=1.0, **changes), record(top_k=3, correct=0.0)])
    assert (1.0 in [row.accuracy for row in pareto(rows, "flops_total")]) == stands


def test_a_circular_group_is_one_unit():
    records = [
        record(sample_id=f"{g}{t}", group=g, correct=float(t != wrong))
        for g, wrong in (("a", None), ("b", 2))
        for t in range(4)
    ]
    assert sorted(o.value for o in outcomes(records)) == [0.0, 1.0]
    assert only(records).questions == 2


def test_video_stages_are_shared_out_among_its_questions():
    """Two videos, three and one questions: pre-fill 300 + 500 over 4 questions."""
    records = [
        record(sample_id=f"a{q}", video_id="a", flops_prefill=300, flops_decode=10)
        for q in range(3)
    ] + [record(sample_id="b0", video_id="b", flops_prefill=500, flops_decode=30)]
    point = only(records)
    assert point.flops["prefill"] == (300 + 500) / 4
    assert point.flops["decode"] == (3 * 10 + 30) / 4
    assert point.flops_total == sum(point.flops.values())
    assert point.flops_next == sum(point.flops[s] for s in ("selection", "reload", "decode"))
    assert point.flops_first > point.flops_total > point.flops_next
    assert point.questions_per_video == 2


def test_kv_share_is_of_the_uncompressed_cache():
    records = [
        record(sample_id="a", kv_bytes_stored=10, kv_bytes_full=100),
        record(sample_id="b", kv_bytes_stored=90, kv_bytes_full=300),
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
    assert {p.task: p.questions for p in rows} == {"all": 3, "a": 1, "b": 1, "ordering": 1}
    assert {p.task: p.accuracy for p in rows}["ordering"] == 1.0


@pytest.mark.parametrize(
    ("changes", "baseline"),
    [
        ({"selector": "all", "top_k": None}, "all-low"),
        ({"selector": "none", "top_k": None}, "all-high"),
        ({"selector": "none", "top_k": None, "ratio_low": 1.0, "ratio_high": 1.0}, "full"),
        ({"selector": "attention"}, None),
        ({"control": "equal_kv_bytes", "ratio_low": 1.0, "ratio_high": 1.0}, None),
    ],
)
def test_baselines_are_recognised(changes, baseline):
    assert only([record(**changes)]).condition.baseline == baseline


def test_points_are_in_the_order_of_k():
    ordered = (0, 2, 16, "64MB", "1GB", "gt")
    rows = points([record(top_k=k) for k in ordered[::-1]])
    assert tuple(p.condition.top_k for p in rows) == ordered


def test_pareto_front_has_no_beaten_point():
    rows = [point for point in points(sweep()) if not point.condition.is_bound]
    front = pareto(rows, "kv_share")
    assert front
    for point in front:
        beaten = [p for p in rows if p.kv_share <= point.kv_share and p.accuracy > point.accuracy]
        assert not beaten
    missing = [p for p in rows if p not in front]
    for point in missing:
        assert any(f.kv_share <= point.kv_share and f.accuracy >= point.accuracy for f in front)


def test_csv_has_a_row_for_each_point_and_a_column_for_each_trait_level_and_stage(tmp_path):
    three = levels(low=2.0, mid=8.0, high=32.0)
    rows = points([*sweep(videos=3, questions=2), record(levels=three, pinned=("first", "last"))])
    write_points(tmp_path / "points.csv", rows)
    with (tmp_path / "points.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in read] == [row.accuracy for row in rows]
    assert [row["baseline"] for row in read] == [p.condition.baseline or "" for p in rows]
    assert {row["role"] for row in read} == {"control", "method", "bound"}
    (middle,) = [row for row in read if row["ratio.mid"]]
    assert [middle[f"ratio.{name}"] for name in ("low", "mid", "high")] == ["2.0", "8.0", "32.0"]
    assert (middle["pinned"], middle["measured_ratio.mid"]) == ("first+last", "8.0")
    assert list(middle).index("ratio.low") + 2 == list(middle).index("ratio.high")
    assert [float(row["flops_decode"]) for row in read] == [p.flops["decode"] for p in rows]
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
    assert (tasks.accuracy, tasks.questions, tasks.videos) == (pytest.approx((1 / 3 + 1) / 2), 4, 4)
    questions = only(vnbench_records("ad", mean="questions"))
    assert questions.accuracy == pytest.approx(2 / 4)
    assert tasks.accuracy_low <= tasks.accuracy <= tasks.accuracy_high
    assert tasks.accuracy_low != questions.accuracy_low


def test_parts_are_tasks_and_the_tags_that_have_several_values():
    rows = points(vnbench_records("ad"), by_task=True)
    assert rows[0].task == "all"
    assert {row.task: row.questions for row in rows} == {
        "all": 4,
        "ret_edit1": 3,
        "cnt_edit1": 1,
        "ability=ret": 3,
        "ability=cnt": 1,
    }
    assert {row.task: row.accuracy for row in rows}["ability=ret"] == pytest.approx(1 / 3)


def test_a_question_of_two_tasks_counts_in_both_and_once_in_all():
    records = [record(sample_id="a", task="x + y"), record(sample_id="b", task="y", correct=0.0)]
    rows = {row.task: (row.questions, row.accuracy) for row in points(records, by_task=True)}
    assert rows == {"all": (2, 0.5), "x": (1, 1.0), "y": (2, 0.5)}


def test_a_protocol_may_leave_unparsed_answers_out_but_they_are_counted():
    values = ((1.0, "A"), (0.0, "B"), (None, None))
    records = [
        record(sample_id=str(i), correct=c, parsed=p, unparsed="left out")
        for i, (c, p) in enumerate(values)
    ]
    point = only(records)
    assert (point.accuracy, point.questions, point.parse_failures) == (0.5, 2, 1)


def test_a_guess_counts_in_the_headline_and_among_the_unparsed():
    records = [
        record(sample_id="a", correct=1.0, parsed=None, guess="A", unparsed="guessed"),
        record(sample_id="b", correct=0.0, parsed="B", unparsed="guessed"),
    ]
    point = only(records)
    assert (point.accuracy, point.questions, point.parse_failures) == (0.5, 2, 1)
    assert point.accuracy_parsed == 0.0


def test_answers_that_are_kept_back_have_no_accuracy():
    records = [record(sample_id=str(i), answer=None, correct=None, parsed="A") for i in range(3)]
    point = only(records)
    assert math.isnan(point.accuracy) and (point.questions, point.parse_failures) == (0, 0)


def test_settings_tell_apart_what_nothing_else_does():
    """hit_rate at three rates in one run; that other selectors have settings of their own is no news."""
    rates = [
        condition(selector="hit_rate", selector_config=c, top_k=k) for c in "abc" for k in (1, 2)
    ]
    other = [condition(selector="attention", selector_config="d", top_k=k) for k in (1, 2)]
    found = names([*rates, *other])
    assert (found.varying, found.several) == ((), {"hit_rate"})
    assert found.cell(rates[0]) == "tome hit_rate settings a k=1"
    assert found.cell(other[0]) == "tome attention k=1"
    assert "selector_config" not in varying([*rates[:2], *other])
    seeds = [condition(selector="random", run_id=c, selector_config=c, seed=ord(c)) for c in "ab"]
    assert varying(seeds) == ["seed"] and not names(seeds).several
    assert varying([condition(run_id=run) for run in "ab"]) == ["run_id"]
    assert varying([condition(protocol=p, run_id=p) for p in "ab"]) == ["protocol"]


def test_names_tell_levels_ratios_and_what_full_kvs_depend_on():
    three = condition(levels=levels(low=2.0, mid=8.0, high=None), top_k="2+4")
    full = condition(ratio_low=1.0, ratio_high=1.0, frames=48)
    called = names([three, condition(), full])
    assert called.cell(three) == "tome attention mid 8x high dropped k=2+4"
    assert called.cell(condition()) == "tome attention high 32x k=1"
    assert called.cell(full) == "full" and names([full, condition(frames=24)]).varying == ()
    frames = names([full, condition(frames=24), condition(frames=48)])
    assert frames.cell(full) == "full 48 frames"


def test_an_incomplete_group_does_not_count():
    """Three right tries of four, alone in the cell: no unit yet."""
    point = only([record(sample_id=f"a{t}", group="a") for t in range(3)])
    assert point.questions == 0 and math.isnan(point.accuracy)
    pairs = [record(sample_id=f"a{t}", group="a", tries=2) for t in range(2)]
    assert (only(pairs).questions, only(pairs).accuracy) == (1, 1.0)
