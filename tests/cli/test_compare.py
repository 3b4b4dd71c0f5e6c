import csv
import dataclasses
import io
import json
import re

import pytest

from tests.synthetic import record, sweep
from x2l.analysis.comparison import compare, pair, read_cells
from x2l.analysis.comparison_table import table
from x2l.cli.compare import main
from x2l.runs.records import RecordWriter


def write(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    with RecordWriter(folder / "records.jsonl") as writer:
        for one in records:
            writer.append(one)
    return folder


def answers(marks, **changes):
    """Records of one cell; `marks` has a string a video, of 1 (right), 0 (wrong) and - (not parsed)."""
    found = []
    for video, row in enumerate(marks):
        for number, mark in enumerate(row):
            correct = None if mark == "-" else float(mark)
            parsed = None if mark == "-" else "A"
            found.append(
                record(
                    video_id=f"v{video}",
                    sample_id=f"v{video}/q{number}",
                    task="t1" if number == 0 else "t2",
                    correct=correct,
                    parsed=parsed,
                    **changes,
                )
            )
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """tome and key_norm: controls, and three selectors at k = 0, 1, 2, 4."""
    folder = tmp_path_factory.mktemp("sweep")
    by_run = {}
    for one in sweep(compressors=("tome", "key_norm"), videos=12, questions=6):
        by_run.setdefault(one.condition.run_id, []).append(one)
    for run, records in by_run.items():
        write(folder / run, records)
    return folder


def test_flips_differences_and_accuracies_by_hand(tmp_path):
    a = write(tmp_path / "a", answers(["110", "100", "01-"], run_id="a", selector="random"))
    b = write(tmp_path / "b", answers(["111", "001", "010"], run_id="b", selector="attention"))
    (found,) = compare(pair(read_cells(a, {}), read_cells(b, {})))
    assert (found.micro.lost, found.micro.gained, found.micro.count) == (1, 2, 9)
    assert found.micro.value == pytest.approx(1 / 9)
    assert [round(9 * one.value) for one in found.accuracies[:2]] == [4, 5]
    # Task t1 is the first question of each video: 2 of 3, then 1 of 3; t2 the others: 2 and 4 of 6.
    assert found.macro.value == pytest.approx((-1 / 3 + 2 / 6) / 2)
    assert found.accuracies[2].value == pytest.approx((2 / 3 + 2 / 6) / 2)
    assert (found.unparsed_a, found.unparsed_b) == (1, 0)
    assert found.p_holm == found.micro.p_value


def test_questions_that_only_one_side_has_are_counted_and_left_out(tmp_path):
    a = write(tmp_path / "a", answers(["11", "11", "11"], run_id="a"))
    b = write(tmp_path / "b", answers(["1", "10"], run_id="b"))
    (found,) = compare(pair(read_cells(a, {}), read_cells(b, {})))
    assert (found.only_a, found.only_b, found.micro.count) == (3, 0, 3)
    assert found.accuracies[0].count == found.accuracies[1].count == 3
    assert "only in A" in table([found]) and "only in B" not in table([found])


def test_accuracies_are_of_what_both_sides_count(tmp_path, capsys):
    """A leaves two answers out that B has right, B one: A % and B % on the other six, whose difference is shown."""
    rule = dict(unparsed="left out")
    a = write(tmp_path / "a", answers(["110", "100", "1--"], run_id="a", **rule))
    b = write(tmp_path / "b", answers(["1-1", "001", "011"], run_id="b", selector="x", **rule))
    (found,) = compare(pair(read_cells(a, {}), read_cells(b, {})))
    assert (found.micro.count, found.left_out) == (6, 3)
    first, second, *tasks = found.accuracies
    assert (first.value, second.value) == (pytest.approx(3 / 6), pytest.approx(3 / 6))
    assert second.value - first.value == pytest.approx(found.micro.value)
    assert tasks[1].value - tasks[0].value == pytest.approx(found.macro.value)
    told = " ".join(run(capsys, a, b).split("\n\n")[-1].split())
    assert "does not count" in told and told.endswith("up to 3 in a comparison.")


def test_the_mean_that_the_protocol_names_is_tested(tmp_path, capsys):
    """Task t1 (one question of six) gains in most videos, t2 loses in half: micro and macro point apart."""
    marks = ["000000", "011111"] * 8, ["100000", "100111"] * 7 + ["000000", "100111"]
    sides = {}
    for mean in ("questions", "tasks"):
        pairs = []
        for name, row in zip("ab", marks, strict=True):
            folder = tmp_path / mean / name
            write(folder, answers(row, run_id=name, selector=name, mean=mean))
            pairs.append(read_cells(folder, {}))
        (sides[mean],) = compare(pair(*pairs))
    micro, macro = sides["questions"], sides["tasks"]
    assert (micro.headline, macro.headline) == (micro.micro, macro.macro)
    assert micro.p_holm == micro.micro.p_value != macro.p_holm == macro.macro.p_value
    assert micro.videos_needed != macro.videos_needed
    out = run(capsys, tmp_path / "tasks" / "a", tmp_path / "tasks" / "b")
    assert "mean over" in out and "micro B - A (95 %)" in out and "macro" not in out
    assert macro.macro.value > 0 > micro.micro.value
    row = out.split("\n\n")[1].splitlines()[1].split()
    assert row[1:4] == ["tasks", *(f"{100 * one.value:.1f}" for one in macro.accuracies[2:])]


def test_settings_are_named_where_only_they_tell_cells_apart(tmp_path, capsys):
    """hit_rate at two rates, at two k each, against attention at the same k."""
    records = [
        one
        for config in ("aaaa", "bbbb")
        for k in (1, 2)
        for one in answers(["10", "01"], selector="hit_rate", selector_config=config, top_k=k)
    ]
    for k in (1, 2):
        records += answers(["11", "01"], selector="attention", selector_config="cccc", top_k=k)
    folder = write(tmp_path / "sweep", records)
    out = run(capsys, folder, "--a", "selector=hit_rate", "--b", "selector=attention")
    assert "A selector_config" in out and out.count("aaaa") == out.count("bbbb") == 2
    assert "B selector_config" not in out and "cccc" not in out


def test_unequal_bytes_are_warned_of(tmp_path, capsys):
    a = write(tmp_path / "a", answers(["10", "11"], run_id="a", kv_bytes_stored=4000))
    near = dict(selector="random", kv_bytes_stored=4300)
    b = write(tmp_path / "b", answers(["11", "10"], run_id="b", **near))
    far = dict(selector="random", kv_bytes_stored=4500)
    c = write(tmp_path / "c", answers(["11", "10"], run_id="c", **far))
    main([str(a), str(b)])
    assert capsys.readouterr().err == ""
    main([str(c), str(a)])
    told = capsys.readouterr().err
    assert "KV bytes of A and B differ by more than 10 % in 1 of 1 comparisons" in told
    assert "22.5 % and 20.0 %" in told


def test_no_shared_question_is_an_error(tmp_path):
    a = write(tmp_path / "a", answers(["1"], run_id="a"))
    other = [record(run_id="b", sample_id="elsewhere/q0", video_id="elsewhere")]
    b = write(tmp_path / "b", other)
    with pytest.raises(ValueError, match="share no question; compare runs of one benchmark"):
        compare(pair(read_cells(a, {}), read_cells(b, {})))


def named(pairs, *fields):
    return [tuple((x.condition.traits[f], y.condition.traits[f]) for f in fields) for x, y in pairs]


def test_cells_are_paired_that_agree_in_what_varies_on_both_sides(swept):
    """The k of both vary, so must be equal; the selector is one a side, so may differ."""
    a = read_cells(swept, {"selector": "random", "compressor": "tome"})
    b = read_cells(swept, {"selector": "attention", "compressor": "tome"})
    assert named(pair(a, b), "top_k") == [((k, k),) for k in (0, 1, 2, 4)]
    methods = pair(
        read_cells(swept, {"compressor": "tome", "selector": "oracle,random"}),
        read_cells(swept, {"compressor": "key_norm", "selector": "oracle,random"}),
    )
    assert len(methods) == 2 * 4
    assert all(len(set(both)) == 1 for one in named(methods, "selector", "top_k") for both in one)


def test_one_cell_is_compared_with_every_other(swept):
    a = read_cells(swept, {"selector": "none", "compressor": "tome", "ratio.low": "2"})
    assert len(a) == 1
    pairs = pair(a, read_cells(swept, {"compressor": "tome", "ratio.low": "2"}))
    assert len(pairs) == 13  # all, and three selectors at four k; not itself
    assert a[0] not in [y for _, y in pairs]


def test_many_comparisons_are_corrected(swept):
    a = read_cells(swept, {"selector": "none", "compressor": "tome", "ratio.low": "2"})
    found = compare(pair(a, read_cells(swept, {"compressor": "tome", "ratio.low": "2"})))
    smallest = min(found, key=lambda one: one.micro.p_value)
    assert smallest.p_holm == pytest.approx(min(1, 13 * smallest.micro.p_value))
    assert all(one.p_holm >= one.micro.p_value for one in found)


def test_runs_that_only_their_id_tells_apart_are_cells_apart(tmp_path):
    """Two seeds of the benchmark, say: their answers must never be mixed."""
    folder = tmp_path / "sweep"
    write(folder / "one", answers(["11", "10"], run_id="one"))
    write(folder / "two", answers(["01", "00"], run_id="two"))
    cells = read_cells(folder, {})
    assert len(cells) == 2 and {len(cell.records) for cell in cells} == {4}
    assert len(read_cells(folder, {"run_id": "two"})) == 1
    with pytest.raises(ValueError, match="no two cells to compare; a has run_id=one, run_id=two"):
        pair(cells, cells)


def test_a_run_that_lies_in_two_folders_counts_once(tmp_path):
    for name in ("first", "copy"):
        write(tmp_path / name, answers(["11", "10"], run_id="one"))
    (cell,) = read_cells(tmp_path, {})
    assert len(cell.records) == 4


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"selektor": "random"}, "selektor: is no field; choose by model, benchmark, "),
        ({"selector": "best"}, r"holds no cell with selector=best; it has .*selector=random"),
    ],
)
def test_a_filter_that_fits_nothing_says_what_there_is(swept, wanted, message):
    with pytest.raises(ValueError, match=message):
        read_cells(swept, wanted)


def run(capsys, *arguments):
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_the_table_names_what_both_share_once_and_what_varies_in_columns(swept, capsys):
    out = run(capsys, swept, "--a", "selector=random", "--b", "selector=attention", "--points", 3)
    head, *_ = out.splitlines()
    assert head.startswith("both: model x2l_tiny, benchmark needle,") and "selector" not in head
    assert "\nA: selector random\nB: selector attention\n" in out
    titles = " ".join(block.splitlines()[0] for block in out.split("\n\n")[1:])
    for title in ("compressor", "top_k", "right>wrong", "wrong>right", "p Holm", "videos for 3 pt"):
        assert title in titles
    assert len(out.split("\n\n")[1].splitlines()) == 1 + 2 * 4
    assert out.rstrip().endswith("Every question was answered on both sides.")


def test_two_folders_need_no_filter_where_each_holds_one_cell(tmp_path, capsys):
    a = write(tmp_path / "a", answers(["110", "100"], run_id="a"))
    b = write(tmp_path / "b", answers(["111"], run_id="b", compressor="random"))
    out = run(capsys, a, b, "--bootstrap", 200)
    assert "A: compressor tome\nB: compressor random" in out and "bootstrap" in out
    assert "Left out: questions that only one side answered, up to 3 in a comparison." in out


def test_json_holds_everything_and_no_nan(tmp_path, capsys):
    a = write(tmp_path / "a", answers(["110"], run_id="a"))
    b = write(tmp_path / "b", answers(["111"], run_id="b", selector="random"))

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(run(capsys, a, b, "--json"), parse_constant=refuse)
    (one,) = found["comparisons"]
    assert one["micro"]["gained"] == 1 and one["micro"]["error"] is None  # one video: no error
    assert one["a"]["selector"] == "attention" and one["b"]["selector"] == "random"
    assert one["videos_needed"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: folder=nowhere: no such folder; give one that x2l wrote"),
        ([".", "--a", "selector"], "error: selector: must be FIELD=VALUE"),
        (["."], "error: folder=.: holds no records.jsonl with an answer; run x2l first"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.startswith(message) and told.count("\n") == 1


@pytest.fixture
def two_sweeps(tmp_path):
    """The same cells at 24 and at 48 frames."""
    for name, frames in (("a", 24), ("b", 48)):
        for one in sweep(compressors=("tome", "key_norm"), videos=3, questions=3):
            cell = dataclasses.replace(one.condition, frames=frames)
            again = dataclasses.replace(one, condition=cell)
            write(tmp_path / name / one.condition.run_id, [again])
    return [str(tmp_path / name) for name in "ab"]


def test_two_sweeps_are_compared_cell_by_cell_within_120_columns(two_sweeps, capsys):
    main([*two_sweeps, "--where", "selector=attention,random"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120 and "A: frames 24" in printed
    tables = [block.splitlines() for block in printed.split("\n\n") if block.lstrip()[0] == "#"]
    assert len(tables) > 1 and len({len(rows) for rows in tables}) == 1
    main([*two_sweeps, "--where", "selector=attention,random", "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(tables[0]) - 1 and {row["n"] for row in rows} == {"9"}
    assert [*rows[0]] == [
        name for block in tables for name in re.split(r"  +", block[0].strip())[1:]
    ]
    assert {row["selector"] for row in rows} == {"attention", "random"}


@pytest.mark.parametrize(("form", "row"), [("markdown", "| tome"), ("latex", r"\toprule")])
def test_a_table_for_a_page_or_a_paper(two_sweeps, capsys, form, row):
    main([*two_sweeps, "--where", "selector=attention", "top_k=2", "--format", form])
    printed = capsys.readouterr().out
    assert row in printed.replace("|     tome", "| tome").replace("key_norm", "tome")
    with pytest.raises(SystemExit):
        main([*two_sweeps, "--where", "selector=nobody"])
    assert "holds no cell with selector=nobody" in capsys.readouterr().err
