"""Answers that memory ran out for, wherever accuracies are shown."""

from tests.synthetic import condition, out_of_memory, record
from x2l.analysis.cell_names import names
from x2l.analysis.curves import draw
from x2l.analysis.points import pareto, points
from x2l.analysis.points_table import table


def entries(top_k, count, **changes):
    return [
        out_of_memory(condition(top_k=top_k), sample_id=f"v{n}/q", video_id=f"v{n}", **changes)
        for n in range(6 - count, 6)
    ]


def cells(k, count=6):
    """One question a video; the two long videos, the last, are answered wrong."""
    return [
        record(
            top_k=k,
            sample_id=f"v{n}/q",
            video_id=f"v{n}",
            frames_sampled=24 if n < 4 else 512,
            correct=float(n < 4),
        )
        for n in range(count)
    ]


def test_an_accuracy_over_fewer_questions_is_marked_wherever_it_is_shown():
    lost = [*entries(2, 2), *entries(4, 6)]
    rows = points([*cells(1), *cells(2, count=4)], out_of_memory=lost)
    counts = [(p.condition.top_k, p.questions, p.out_of_memory) for p in rows]
    assert counts == [(1, 6, 0), (2, 4, 2), (4, 0, 6)]
    lines = table(rows).splitlines()
    assert lines[0].split()[-1] == "OOM" and lines[-1].startswith("* without the answers")
    assert [line.split()[3] for line in lines[1:4]] == ["66.7", "100.0*", "OOM"]
    assert [p.condition.top_k for p in pareto(rows, "kv_bytes_stored")] == [1]
    # The videos that fitted make no other experiment.
    assert names(p.condition for p in rows).varying == ()

    figure = draw(rows, "title")
    assert figure.get_suptitle() == "title\ntome\nout of memory, not drawn: tome attention k=4"
    (legend,) = figure.legends
    assert any("out of memory" in text.get_text() for text in legend.get_texts())
    marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "s"]
    assert "white" in {line.get_markerfacecolor() for line in marks}

    whole = points(cells(1))
    assert "OOM" not in table(whole) and draw(whole, "t").get_suptitle() == "t\ntome, k=1"


def test_parts_count_what_they_lost_themselves():
    lost = [out_of_memory(condition(), task="counting")]
    rows = {p.task: p for p in points(cells(1), by_task=True, out_of_memory=lost)}
    counted = {name: (p.questions, p.out_of_memory) for name, p in rows.items()}
    assert counted == {"all": (6, 1), "retrieval": (6, 0), "counting": (0, 1)}


def test_an_answer_makes_up_for_what_ran_out_before():
    lost = [out_of_memory(condition(), sample_id="v0/q", video_id="v0")]
    (point,) = points(cells(1), out_of_memory=lost)
    assert (point.questions, point.out_of_memory) == (6, 0)
