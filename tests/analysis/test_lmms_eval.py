"""lmms-eval's samples files: written in its form, read back as they were, and files of its own."""

import json
from dataclasses import replace

import pytest

from tests.synthetic import record
from x2l.analysis.curves import draw
from x2l.analysis.lmms_eval import ReferenceLine, export, parse_lines, read_line
from x2l.analysis.points import points
from x2l.analysis.scoring import headline
from x2l.cli.collect import main
from x2l.runs.job_status import StatusFile
from x2l.runs.records import RecordWriter


def videomme(number, **changes):
    tags = {"duration": "short", "domain": "Knowledge", "sub_category": "Law"}
    values = dict(
        sample_id=f"{number // 3 + 1:03d}-{number % 3 + 1}",
        video_id=f"v{number // 3}",
        benchmark="videomme",
        protocol="lmms_eval",
        task="OCR Problems",
        tags=tags,
        row=number,
        gt_chunks=None,
        correct=float(number % 2),
        answer="A",
        parsed="AB"[1 - number % 2],
    )
    return record(**{**values, **changes})


def longvideobench(number, **changes):
    values = dict(
        sample_id=f"clip_{number}",
        video_id="clip",
        benchmark="longvideobench_val_v",
        task="S2E",
        tags={"duration": "600", "topic": "KH"},
        row=number,
        answer="C",
        parsed="C",
        unparsed="guessed",
    )
    return record(**{**values, **changes})


def vnbench(video, turn, right, kind="ret_edit1"):
    return record(
        sample_id=f"{video}_{turn}",
        video_id=video,
        group=video,
        benchmark="vnbench",
        protocol="official",
        mean="tasks",
        task=kind,
        row=4 * int(video) + turn,
        correct=float(right),
        answer="A",
        parsed="A" if right else "B",
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- export --------------------------------------------------------------------------------------


def test_one_file_for_each_cell_named_as_lmms_eval_names_them(tmp_path):
    records = [videomme(n, top_k=k) for n in range(6) for k in (1, 2)]
    paths = export(tmp_path, records)
    folders = [path.parent.name for path in paths]
    starts = [f"tome-2x-32x-attention-k{k}-" for k in (1, 2)]
    assert all(map(str.startswith, folders, starts))
    assert all(name.endswith("-00000000") for name in folders)
    assert {path.name for path in paths} == {"0123456789ab_samples_videomme.jsonl"}
    before = [path.read_bytes() for path in paths]
    assert export(tmp_path, records[::-1]) == paths
    assert [path.read_bytes() for path in paths] == before


def test_a_line_has_lmms_evals_keys_and_the_tasks_own_metric(tmp_path):
    (path,) = export(tmp_path, [videomme(1, prediction="A. Two.", parsed="A", correct=1.0)])
    (line,) = lines(path)
    assert {"doc_id", "target", "filtered_resps", "doc_hash", "input"} <= line.keys()
    assert (line["doc_id"], line["target"], line["filtered_resps"]) == (1, "A", ["A. Two."])
    assert line["videomme_perception_score"] == {
        "question_id": "001-2",
        "duration": "short",
        "category": "Knowledge",
        "sub_category": "Law",
        "task_category": "OCR Problems",
        "pred_answer": "A",
        "answer": "A",
    }


def test_longvideobench_has_its_own_target_a_guess_and_a_submission(tmp_path):
    unread = dict(prediction="hm", parsed=None, guess="B", correct=0.0)
    (path,) = export(tmp_path, [longvideobench(0), longvideobench(1, **unread)])
    first, second = lines(path)
    assert (first["target"], second["lvb_acc"]["parsed_pred"]) == ("2", "B")
    assert second["lvb_acc"]["duration_group"] == 600
    assert second["submission"] == {"clip_1": "hm"}
    assert second["x2l"]["parsed"] is None


@pytest.mark.parametrize(
    ("benchmark", "key"),
    [
        ("mlvu_dev", "mlvu_perception_score"),
        ("vnbench", "vnbench_perception_score"),
        ("lvbench", "lvbench_score"),
        ("needle", "x2l_score"),
    ],
)
def test_every_benchmark_has_a_metric(tmp_path, benchmark, key):
    (path,) = export(tmp_path, [record(benchmark=benchmark)])
    (line,) = lines(path)
    assert key in line and line["doc_id"] == 0


# --- import --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "records",
    [
        [videomme(n) for n in range(9)],
        [videomme(n, parsed=None, correct=None) for n in range(3)],
        [videomme(n, unparsed="left out") for n in range(6)]
        + [videomme(n, unparsed="left out", parsed=None, correct=None) for n in range(6, 9)],
        [videomme(0), videomme(1, answer=None, correct=None)],
        [longvideobench(0), longvideobench(1, parsed=None, guess="C", correct=1.0)],
        [vnbench(v, t, v != "1" or t < 3) for v in ("0", "1", "2") for t in range(4)]
        + [vnbench("3", t, True, "cnt_edit1") for t in range(4)],
        [record(benchmark="lvbench", sample_id=str(n), correct=float(n > 1)) for n in range(5)],
    ],
)
def test_an_export_reads_back_as_the_cell_it_was(tmp_path, records):
    (path,) = export(tmp_path, records)
    line = read_line("again", path, records)
    assert line.accuracy == headline(records)
    assert line.clustered
    if records[0].question.mean == "questions":  # lmms-eval's own form does not say which mean
        assert read_line("alone", path).accuracy.value == headline(records).value
    if (
        records[0].condition.benchmark != "lvbench"
    ):  # of which lmms-eval's form says right or wrong only
        assert line.parse_failures == sum(r.answer.parsed is None for r in records)


def test_a_file_of_lmms_eval_follows_the_records_rule_for_unparsed_answers(tmp_path):
    rows = [stock_videomme(n, right=n < 4) for n in range(6)]
    path = write(tmp_path / "x_samples_videomme.jsonl", rows)
    line = read_line("stock", path, [videomme(n, unparsed="left out") for n in range(6)])
    assert (line.accuracy.value, line.accuracy.count, line.parse_failures) == (1.0, 4, 2)


@pytest.mark.parametrize("make", [longvideobench, videomme])
def test_predictions_without_answers_are_refused(tmp_path, make):
    (path,) = export(tmp_path, [make(0, answer=None, correct=None)])
    with pytest.raises(ValueError, match="holds predictions without answers; give"):
        read_line("kept back", path)


def stock_videomme(number, right, **extra):
    """A line as lmms-eval itself writes it."""
    return {
        "doc_id": number,
        "target": "A",
        "videomme_perception_score": {
            "question_id": f"{number // 3 + 1:03d}-{number % 3 + 1}",
            "duration": "short",
            "category": "Knowledge",
            "sub_category": "Law",
            "task_category": "OCR Problems",
            "pred_answer": "A" if right else "",
            "answer": "A",
        },
        "filtered_resps": ["A"],
        "doc_hash": "ab" * 32,
        "input": "Select the best answer ...",
        **extra,
    }


def test_a_file_of_lmms_eval_is_read_on_the_questions_that_the_records_have(tmp_path):
    rows = [stock_videomme(n, right=n < 4) for n in range(12)]
    path = write(tmp_path / "20250101_000000_samples_videomme.jsonl", rows)
    alone = read_line("stock", path)
    assert (alone.accuracy.value, alone.accuracy.count) == (4 / 12, 12)
    assert (alone.parse_failures, alone.clustered) == (8, False)
    beside = read_line("stock", path, [videomme(n) for n in range(6)])
    assert (beside.accuracy.value, beside.accuracy.count) == (4 / 6, 6)
    assert (beside.accuracy.videos, beside.clustered) == (2, True)
    other = read_line("stock", path, [record(benchmark="needle")])
    assert other.accuracy.count == 12


def test_vnbench_of_the_authors_counts_four_tries_as_one(tmp_path):
    rows = [
        {
            "doc_id": number,
            "target": "A",
            "vnbench_perception_score": {
                "question_id": "What is inserted?\nA. x",  # the same in all
                "task_type": "ret_edit1",
                "pred_answer": "B" if number == 6 else "A",
                "answer": "A",
                "video_pure_name": f"{number // 4}.mp4",
            },
        }
        for number in range(12)
    ]
    line = read_line("authors", write(tmp_path / "x_samples_vnbench.jsonl", rows))
    assert (line.accuracy.count, line.accuracy.videos) == (3, 3)
    assert line.accuracy.value == pytest.approx(2 / 3)


def test_scores_of_other_tasks_are_read(tmp_path):
    rows = [{"doc_id": n, "target": "A", "lvbench_score": n < 3} for n in range(4)]
    line = read_line("stock", write(tmp_path / "samples_lvbench.jsonl", rows))
    assert (line.benchmark, line.accuracy.value, line.parse_failures) == ("lvbench", 0.75, 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.json", "{}", r"results\.json: must be a file of lmms-eval named"),
        ("x_samples_videomme.jsonl", "", "holds no sample"),
        ("x_samples_videomme.jsonl", '{"doc_id": 1}\n', r"jsonl:1: has no result .*doc_id"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_line("x", path)


@pytest.mark.parametrize("given", ["file.jsonl", "=file.jsonl", "name="])
def test_a_line_needs_a_name_and_a_file(given):
    with pytest.raises(ValueError, match=r"must be NAME=FILE"):
        parse_lines([given], [])


def test_a_line_about_another_benchmark_is_refused(tmp_path):
    path = write(tmp_path / "x_samples_videomme.jsonl", [stock_videomme(0, True)])
    with pytest.raises(ValueError, match=r"is about videomme; must be about needle"):
        parse_lines([f"stock={path}"], [record()])


def test_an_older_name_of_a_task_is_the_same_benchmark(tmp_path):
    rows = [{"mlvu_perception_score": {"task_type": "ego", "pred_answer": "A", "answer": "A"}}]
    path = write(tmp_path / "x_samples_mlvu.jsonl", rows)
    (line,) = parse_lines([f"stock={path}"], [record(benchmark="mlvu_dev")])
    assert line.benchmark == "mlvu_dev"


# --- x2l-collect ---------------------------------------------------------------------------------


def sweep(folder):
    for k in (1, 2):
        run = folder / f"k{k}"
        run.mkdir(parents=True)
        StatusFile(run, f"k{k}").write("done", records=9, expected=9)
        with RecordWriter(run / "records.jsonl") as writer:
            for number in range(9):
                writer.append(videomme(number, run_id=f"k{k}", top_k=k))
    return folder


def test_collect_writes_the_files_and_adds_others_to_figure_and_table(tmp_path, capsys):
    folder = sweep(tmp_path / "sweep")
    main([str(folder), "--tracker", "none"])
    plain, curve = capsys.readouterr().out, (folder / "curve.png").read_bytes()
    assert not (folder / "lmms_eval").exists()
    rows = [stock_videomme(n, right=n < 6) for n in range(9)]
    stock = write(tmp_path / "2025_samples_videomme.jsonl", rows)
    main([str(folder), "--tracker", "none", "--lmms-eval", "--add", f"stock 7B={stock}"])
    told = capsys.readouterr().out
    (added,) = [line for line in told.splitlines() if line.startswith("stock 7B")]
    assert "66.7" in added and "videomme" in added and "stock 7B" not in plain
    assert len(list(folder.rglob("*_samples_videomme.jsonl"))) == 2
    assert (folder / "curve.png").read_bytes() != curve


def test_an_added_line_stands_in_the_panels_of_its_benchmark():
    rows = points([videomme(n, top_k=k) for n in range(9) for k in (1, 2)])
    accuracy = replace(headline([videomme(n) for n in range(9)]), value=0.123)

    def levels(benchmark):
        figure = draw(rows, "x", [ReferenceLine("stock", benchmark, accuracy, 0, True)])
        axes = [a for a in figure.axes if a.lines]
        return [sum(list(line.get_ydata()) == [12.3] * 2 for line in a.lines) for a in axes]

    assert levels("videomme") == [1]
    assert levels("mlvu_dev") == [0]


def test_collect_says_what_is_wrong_with_an_added_file(tmp_path, capsys):
    folder = sweep(tmp_path / "sweep")
    with pytest.raises(SystemExit) as exit_:
        main([str(folder), "--tracker", "none", "--add", "stock=nowhere.jsonl"])
    assert exit_.value.code == 2
    assert "error: nowhere.jsonl: must be a file of lmms-eval" in capsys.readouterr().err


def test_predictions_without_answers_are_written_and_a_warning_says_why_no_figure(tmp_path, capsys):
    run = tmp_path / "test"
    run.mkdir()
    StatusFile(run, "x").write("done", records=1, expected=1)
    with RecordWriter(run / "records.jsonl") as writer:
        writer.append(longvideobench(0, answer=None, correct=None))
    main([str(run), "--tracker", "none", "--lmms-eval"])
    told = capsys.readouterr()
    assert "keeps its answers back; send the predictions in" in told.err
    assert "attention" in told.out and "samples_*.jsonl" in told.out and "curve" not in told.out
    (path,) = run.rglob("*_samples_*.jsonl")
    assert lines(path)[0]["submission"] == {"clip_0": "A"}
