import importlib.util

import pytest

from tests.synthetic import sweep
from x2l.analysis import run_metrics as metrics
from x2l.analysis.compute_axes import AXES, front
from x2l.analysis.points import points
from x2l.analysis.sweep_tables import sweep_tables
from x2l.cli.collect import main
from x2l.runs.job_status import StatusFile
from x2l.runs.records import RecordWriter
from x2l.runs.trackers.tensorboard import TensorBoardTracker

RECORDS = sweep(compressors=("tome",), videos=4, questions=3)
needed = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs pip install 'x2l[tensorboard]'"
)


def read_back(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def text(events, name):
    (event,) = events.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def track(folder):
    config = {"levels": {"high": {"ratio": 32}}, "top_k": [1, 2], "name": "ü"}
    return TensorBoardTracker(folder, run_id="abc", name="n", group="g", config=config)


@needed
def test_a_run_holds_scalars_by_cell_task_and_stage_and_the_configuration(tmp_path):
    told = metrics.final(RECORDS)
    with track(tmp_path) as tracker:
        for count in (60, len(RECORDS)):
            tracker.log(metrics.running(RECORDS[:count]))
        tracker.summarize(told)
        tracker.show_answers(metrics.answer_table(RECORDS))
    events = read_back(tmp_path / "tensorboard")
    logged = events.Scalars("accuracy/oracle k=1")
    assert logged[-1].value == pytest.approx(told["final/oracle k=1/accuracy"])
    assert [event.step for event in events.Scalars("answers")] == [60, len(RECORDS)]
    for name, value in told.items():
        (event,) = events.Scalars(name)
        assert event.step == len(RECORDS) and event.value == pytest.approx(value, rel=1e-6)
    assert "task/ordering/oracle k=1/accuracy" in told
    assert len(text(events, "answers").splitlines()) == 2 + len(RECORDS)
    assert "| all-high " in text(events, "accuracies")
    assert '"ratio": 32' in text(events, "config") and "ü" in text(events, "config")
    assert "`g`" in text(events, "run")
    tags = events.Tags()
    assert any("hparams" in tag for tag in events.summary_metadata)
    assert not [tag for tag in tags["tensors"] if tag.startswith("failed")]


@needed
def test_a_run_that_goes_on_adds_to_its_scalars(tmp_path):
    for answers in (2, 4):
        with track(tmp_path) as tracker:
            tracker.log({"answers": answers, "accuracy/x": answers / 10})
    values = {}
    for file in (tmp_path / "tensorboard").iterdir():
        values |= {e.step: e.value for e in read_back(file).Scalars("accuracy/x")}
    assert values == pytest.approx({2: 0.2, 4: 0.4})


@needed
def test_a_failed_run_says_why(tmp_path):
    with pytest.raises(ZeroDivisionError), track(tmp_path) as tracker:
        tracker.log({"answers": 1})
        raise ZeroDivisionError("by nothing")
    assert text(read_back(tmp_path / "tensorboard"), "failed") == "ZeroDivisionError: by nothing"


@needed
def test_the_sweep_has_tables_picture_front_and_a_chart_for_each_kind_of_compute(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    StatusFile(tmp_path / "run", "x").write("done", records=1, expected=1)
    with RecordWriter(tmp_path / "run" / "records.jsonl") as writer:
        for record in RECORDS:
            writer.append(record)
    main([str(tmp_path), "--tracker", "tensorboard"])
    assert f"tensorboard --logdir {tmp_path}" in capsys.readouterr().out
    home, rows = tmp_path / "tensorboard" / "sweep", points(RECORDS)
    events = read_back(home)
    assert len(text(events, "points").splitlines()) == 2 + len(rows)
    assert "| retrieval |" in text(events, "points_by_task")
    (image,) = events.Images("curve")
    assert image.encoded_image_string == (tmp_path / "curve.png").read_bytes()
    assert min(image.width, image.height) > 100
    for axis in AXES:
        lines = {
            folder.name: folder for folder in (home / f"accuracy_versus_{axis.name}").iterdir()
        }
        assert {"full", "tome oracle", "tome random", "Pareto front"} <= lines.keys()
        level = read_back(lines["full"]).Scalars(f"accuracy_percent_versus_{axis.name}")
        spread = len({axis.value(p) for p in rows})
        assert len(level) == min(2, spread) and len({event.value for event in level}) == 1
        unit = 1e6 if axis.unit == "s" else 1
        for name, members in (
            ("Pareto front", front(rows, axis)),
            (
                "tome all chunks alike",
                [
                    p
                    for name in ("all-high", "all-low")
                    for p in rows
                    if p.condition.baseline == name
                ],
            ),
        ):
            drawn = read_back(lines[name]).Scalars(f"accuracy_percent_versus_{axis.name}")
            assert [e.step for e in drawn] == [round(unit * axis.value(p)) for p in members]
            assert [e.value for e in drawn] == pytest.approx([100 * p.accuracy for p in members])


@needed
def test_a_sweep_is_written_again_only_when_it_has_changed(tmp_path):
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"\x89PNG" + bytes(12) + bytes([0, 0, 0, 4, 0, 0, 0, 2]))
    tables = sweep_tables(points(RECORDS[:12]), points(RECORDS[:12], by_task=True))

    def files():
        return sorted(p.name for p in (tmp_path / "tensorboard").rglob("*tfevents*"))

    tracker = track(tmp_path)
    assert tracker.track_sweep(tables, picture, [])
    before = files()
    assert not tracker.track_sweep(tables, picture, []) and files() == before
    picture.write_bytes(picture.read_bytes() + b"x")
    assert tracker.track_sweep(tables, picture, [])
    assert len(files()) == len(before)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"tracker=tensorboard: .* pip install 'x2l\[tensorboard\]'"
    ):
        track(tmp_path)
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.append(RECORDS[0])
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path), "--tracker", "tensorboard"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: tracker=tensorboard: tensorboard is not")
    assert not (tmp_path / "points.csv").exists()
