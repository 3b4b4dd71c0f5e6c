"""Questions of one's own: what a file may hold, what is refused, how free answers are marked, through the command."""

import json
import math

import pytest

from tests import layouts
from x2l.benchmarks.base import DatasetError
from x2l.benchmarks.free_answer import free_answer
from x2l.benchmarks.jsonl import jsonl
from x2l.cli import data
from x2l.cli.compose import composed, plain
from x2l.runs.run_info import identity

CHOICE = {"video": "films/a.mp4", "question": "Which colour?", "options": ["red", "blue", 3]}
FREE = {"video": "./films/a.mp4", "question": "How many?"}


def written(folder, *rows):
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("answer", "letter"), [("B", "B"), ("blue", "B"), (3, "C"), ("3", "C")])
def test_an_answer_is_a_letter_or_an_options_text(tmp_path, answer, letter):
    own = jsonl(written(tmp_path, {**CHOICE, "answer": answer}))
    (sample,) = own.samples()
    assert (sample.answer, sample.choices) == (letter, ("red", "blue", "3"))
    assert sample.video == str(tmp_path / "films/a.mp4")
    assert own.prompt(sample).splitlines()[1:4] == ["A. red", "B. blue", "C. 3"]
    assert own.score(sample, f"{letter}.").value == 1 and own.score(sample, "A").value == 0
    assert math.isnan(own.score(sample, "no idea").value)


def test_the_fields_of_a_free_question(tmp_path):
    more = {"answer": 2, "spans": [[5, 6], [1, 2.5]], "task": "counting", "tags": {"year": 1999}}
    own = jsonl(written(tmp_path, {**FREE, **more}, CHOICE), protocol="number")
    free, choice = own.samples()
    assert free.video_id == choice.video_id == "films/a.mp4"  # one video, so one pre-fill
    assert (free.task, free.answer, free.choices) == ("counting", "2", ())
    assert free.spans == ((1.0, 2.5), (5.0, 6.0)) and free.tags == {"year": "1999"}
    assert own.prompt(free) == "How many?\nAnswer with a number."
    assert own.score(free, "There are 2 of them.").value == 1
    assert choice.answer is None and math.isnan(own.score(choice, "A").value)


def test_a_question_keeps_its_id_wherever_it_stands(tmp_path):
    before = {s.id for s in jsonl(written(tmp_path, CHOICE, FREE)).samples()}
    assert before == {s.id for s in jsonl(written(tmp_path, FREE, CHOICE)).samples()}
    (named,) = jsonl(written(tmp_path, {**FREE, "id": 7})).samples()
    assert named.id == "7"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "green"}, "line 3: answer='green': must be a letter of ABC, or one of"),
        ({"answer": "D"}, "must be a letter of ABC"),
        ({"options": ["B", "A"], "answer": "A"}, "is the letter of 'B' and the text of option B"),
        ({"options": ["red", "red"], "answer": "A"}, "must differ"),
        ({"options": ["A. red", "B. blue"], "answer": "A"}, "must come without letters"),
        ({"options": ["red"], "answer": "red"}, "must be 2 to 26, not 1"),
        ({"question": ""}, "line 3: question='': must be text"),
        ({"spans": [[5, 1]]}, "start first"),
        ({"span": [[1, 5]]}, "field 'span' is not known"),
        ({"options": None, "answer": "two"}, "must be one number, as benchmark.protocol"),
        (CHOICE, "the question about the same video of line 1 again"),
    ],
)
def test_what_a_line_must_be(tmp_path, row, message):
    with pytest.raises(DatasetError, match=message):
        jsonl(
            written(tmp_path, CHOICE, {**CHOICE, "question": "Another?", **row}), protocol="number"
        )


def test_a_file_that_cannot_be_read_names_line_and_remedy(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text('{"video": "a.mp4"}\n{"video": }\n')
    with pytest.raises(DatasetError, match=r"cannot be read \(line 2: .*; correct it$"):
        jsonl(str(path))
    with pytest.raises(DatasetError, match="no such file"):
        jsonl(str(tmp_path / "your.jsonl"))
    with pytest.raises(ValueError, match="benchmark.file=null: must name"):
        jsonl(None)
    with pytest.raises(ValueError, match="benchmark.protocol='near': must be one of exact"):
        jsonl(str(path), protocol="near")


@pytest.mark.parametrize(
    ("rule", "text", "answer", "right"),
    [
        ("exact", " The Red  car. ", "red car", True),
        ("exact", "a red car", "car", False),
        ("exact", "-3", "3", False),
        ("exact", "...", "red", None),
        ("contains", "It is a RED car, I think.", "the red car", True),
        ("contains", "I do not know", "no", False),
        ("number", "1,200 of them", "1200", True),
        ("number", "\u22121.50", "-1.5", True),
        ("number", "1,5", "15", None),
        ("number", "3 of 5", "3", None),
        ("number", "three", "3", None),
        ("number", "5 x 10", "5", None),
        ("number", "2e2 metres.", "200", True),
        ("number:0.1", "0.3", "0.2", True),
        ("number:0.1", "0.31", "0.2", False),
        ("number:5%", "95", "100", True),
        ("number:5%", "94.9", "100", False),
    ],
)
def test_free_answers(rule, text, answer, right):
    marking = free_answer(rule)
    said = marking.read(text)
    assert (None if said is None else marking.right(said, answer)) is right


def test_an_edited_file_is_another_run_and_a_moved_one_is_not(tmp_path):
    def run_id(folder, answer):
        folder.mkdir(exist_ok=True)
        path = written(folder, {**CHOICE, "answer": answer})
        return identity(plain(composed(["benchmark=jsonl", f"benchmark.file={path}"])))

    first = run_id(tmp_path / "a", "A")
    assert first == run_id(tmp_path / "b", "A") != run_id(tmp_path / "a", "B")


def test_x2l_data_checks_it(tmp_path, capsys):
    layouts.video(tmp_path / "films" / "a.mp4")
    path = written(
        tmp_path, {**CHOICE, "answer": "red"}, {**FREE, "video": "gone.mp4", "answer": 2}
    )
    with pytest.raises(SystemExit) as ended:
        data.main(["check", "benchmark=jsonl", f"benchmark.file={path}"])
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and "fetch" not in printed
    assert "questions   2 of 2, about 2 videos" in printed and "missing     " in printed
    assert printed.startswith("jsonl_my, protocol exact")
