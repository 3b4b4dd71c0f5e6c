import json
import re
from itertools import pairwise

import pytest

from tests.analysis.test_report import RECORDS, write_runs
from tests.synthetic import record
from x2l.analysis.cell_names import names
from x2l.analysis.points import points
from x2l.analysis.report.build import write_report
from x2l.analysis.report.page_data import page_data, script_json
from x2l.analysis.report.questions import ALL_SHOWN, browse, mattering
from x2l.analysis.report.shown_chunks import Layout, chunk_seconds, frame_times, shown_frames
from x2l.benchmarks.base import Sample


def embedded(text):
    """The data of a page, as a browser finds them: up to the first end of a script element."""
    (found,) = re.findall(
        r'<script type="application/json" id="question-data">(.*?)</script', text, re.DOTALL
    )
    return json.loads(found)


def browser(records, samples=None):
    rows = points(records)
    return browse(rows, records, names(p.condition for p in rows), samples)


@pytest.fixture(scope="module")
def data():
    return json.loads(page_data(browser(RECORDS)).data)


def test_every_answer_of_the_records_is_in_the_page(data):
    rows = points(RECORDS)
    called = names(p.condition for p in rows)
    by_name = {cell["name"]: number for number, cell in enumerate(data["cells"])}
    assert by_name.keys() == {called.cell(p.condition) for p in rows}
    questions = {q["id"]: q for q in data["questions"]}
    assert questions.keys() == {r.question.sample_id for r in RECORDS}
    for one in RECORDS:
        question = questions[one.question.sample_id]
        cell = by_name[called.cell(one.condition)]
        known = {1.0: "1", 0.0: "0", None: "?"}
        assert question["marks"][cell] == known[one.answer.correct]
        assert (question["text"], question["video"]) == (
            one.question.question,
            one.video.video_id,
        )
        assert question["tasks"] == [one.question.task]
        details = data["details"][str(question["number"])]
        (answer,) = (a for a in details["answers"] if a["cell"] == cell)
        assert answer["prediction"] == one.answer.prediction
        assert tuple(details["ratings"][answer["rating"]]) == one.selection.relevance
        levels = [level.name for level in one.condition.levels]
        assert tuple(levels[int(n)] for n in answer["levels"]) == one.selection.assigned
        layout = details["layouts"][answer["layout"]]
        assert tuple(layout["truth"]) == one.question.gt_chunks
        assert len(layout["seconds"]) == len(one.selection.assigned)
        assert layout["about"] and layout["pictures"] == [None] * 3


def test_accuracies_beside_cells_are_the_tables(data):
    shown = {cell["accuracy"] for cell in data["cells"]}
    assert shown == {f"{100 * p.accuracy:.1f}" for p in points(RECORDS)}
    first, second = data["start"]
    assert "attention" in data["cells"][first]["name"] and data["cells"][second]["name"] == "full"


def test_marks_say_what_is_not_known():
    records = [
        record(),
        record(sample_id="q1", answer=None, correct=None, parsed="B"),
        record(sample_id="q2", correct=None, parsed=None, prediction="hm"),
        record(selector="random", sample_id="q2", correct=0.0, parsed=None, guess="B"),
    ]
    found = browser(records)
    overview = found.overview(range(len(found.questions)))
    marks = {q["id"]: q["marks"] for q in overview["questions"]}
    by_name = [cell["name"].split()[1] for cell in overview["cells"]]
    assert {by_name[i]: m for i, m in enumerate(marks["v0/q0"])} == {
        "attention": "1",
        "random": "-",
    }
    assert {by_name[i]: m for i, m in enumerate(marks["q1"])} == {"attention": "n", "random": "-"}
    assert {by_name[i]: m for i, m in enumerate(marks["q2"])} == {"attention": "?", "random": "0"}


def test_no_text_breaks_out_of_the_page(tmp_path):
    evil = "</script><script>alert(1)</script><!-- \u2028 & \udc80"
    records = [
        record(question=evil, prediction=evil, task=evil, video_id=evil, sample_id=evil),
        record(selector="oracle", question=evil, sample_id=evil, tags={"k": evil}),
    ]
    text = write_report(write_runs(tmp_path, records)).read_text(encoding="utf-8")
    data = embedded(text)
    (question,) = data["questions"]
    assert question["text"] == evil and question["id"] == evil
    assert data["details"]["0"]["answers"][0]["prediction"] in (evil, "A")
    assert text.count("<script") == 5 and "alert(1)</script>" not in text
    assert json.loads(script_json({"a": evil})) == {"a": evil} and "<" not in script_json([evil])


def test_circular_and_several_tasks_are_filtered_by_each_task():
    records = [record(task="a + b"), record(task="c", sample_id="q1")]
    overview = browser(records).overview([0, 1])
    assert [q["tasks"] for q in overview["questions"]] == [["a", "b"], ["c"]]


def test_of_too_many_questions_some_are_shown_evenly_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr("x2l.analysis.report.page_data.MOST_TEXT", 2000)
    records = [record(sample_id=f"q{number}") for number in range(40)]
    page = page_data(browser(records))
    values = json.loads(page.data)
    numbers = [q["number"] for q in values["questions"]]
    assert 1 < len(numbers) < 40 and len({b - a for a, b in pairwise(numbers)}) == 1
    assert values["details"].keys() == set(map(str, numbers))
    assert f"{len(numbers)} of 40 questions" in page.notes[0] and "--serve" in page.notes[0]


def layout(**changes):
    return Layout.of(record(**changes))


def test_times_without_a_file_are_evenly_spread():
    by_rate = layout()  # 24 frames of 24 s at one a second, in chunks of 8
    assert frame_times(by_rate) == [float(second) for second in range(24)]
    assert chunk_seconds(by_rate, frame_times(by_rate)) == [(0, 8), (8, 16), (16, 24)]
    spread = layout(duration=46.0, fps=None)
    assert frame_times(spread)[-1] == pytest.approx(46.0)
    fewer = layout(frames_prefilled=6, chunk_frames=2)
    assert fewer.taken == [0, 4, 9, 13, 18, 23] and len(frame_times(fewer)) == 6


def test_the_frame_that_holds_the_answer_is_shown():
    one = layout()
    assert shown_frames(one, frame_times(one), ()) == [4, 12, 20]
    assert shown_frames(one, frame_times(one), ((9.0, 10.0), (22.5, 24.0))) == [4, 9, 23]


def test_of_many_chunks_those_that_matter_are_shown():
    count = ALL_SHOWN + 12
    values = dict(
        assigned=tuple("low" if i == 50 else "high" for i in range(count)),
        relevance=tuple(float(i == 7) for i in range(count)),
        gt_chunks=(31,),
    )
    matter = mattering([record(**values)], count)
    assert {7, 31, 50} <= matter and len(matter) <= 6
    assert mattering([record()], 3) == {0, 1, 2}


SAMPLE = Sample(
    "v0/q0", "v0", "", "retrieval", "Which?", ("red", "blue"), "A", ((9.0, 11.0),), {"kind": "edit"}
)


def test_options_are_those_of_the_sample():
    details = browser([record()], {("needle", "v0/q0"): SAMPLE}).details(0)
    assert details["options"] == [("A", "red"), ("B", "blue")] and details["answer"] == "A"
    assert browser([record()]).details(0)["options"] == []
