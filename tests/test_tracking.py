import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.synthetic import sweep
from x2l.collect import collect
from x2l.records import RecordWriter
from x2l.tracking import NoTracker, WandbTracker, place_id


def offline_runs(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("run-*.wandb") if "latest-run" not in p.parts)


def read_back(file: Path) -> dict:
    """What W&B really wrote, by its own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    found: dict = {"history": [], "summary": {}, "exit": None}
    for line in map(json.loads, done.stdout.splitlines()):
        if line["type"] == "history":
            found["history"].append(line["history"]["item"])
        elif line["type"] == "run":
            found |= {"id": line["run"]["run_id"], "group": line["run"]["run_group"]}
            found["config"] = line["run"]["config"]["update"]
        elif line["type"] == "exit":
            found["exit"] = line["exit"].get("exit_code", 0)
    return found


def logged_table(file: Path, path: str) -> list[dict]:
    values = json.loads((file.parent / "files" / path).read_text())
    return [dict(zip(values["columns"], row, strict=True)) for row in values["data"]]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own, so that what is written there shows."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", "")  # restored afterwards
        monkeypatch.delenv(f"WANDB_{name}_DIR")
    return home


def track(folder, **changes):
    options = {"run_id": "abc", "name": "n", "group": "g", "config": {"a": {"b": 1}}, **changes}
    return WandbTracker(folder=folder, **options)


def test_an_offline_run_holds_what_was_logged(tmp_path, home, capfd):
    with track(tmp_path / "run") as tracker:
        for answers in (2, 4):
            tracker.log({"answers": answers, "accuracy/oracle k=1": answers / 10})
        tracker.summarize({"final/accuracy": 0.4})
    (file,) = offline_runs(tmp_path / "run")
    found = read_back(file)
    assert (found["id"], found["group"], found["exit"]) == ("abc", "g", 0)
    assert found["config"]["a"] == {"b": 1}
    assert [row["accuracy/oracle k=1"] for row in found["history"]] == [0.2, 0.4]
    assert list(home.rglob("*")) == []
    assert capfd.readouterr() == ("", "")


def test_a_failed_run_says_so(tmp_path):
    with pytest.raises(ZeroDivisionError), track(tmp_path / "run"):
        raise ZeroDivisionError
    (file,) = offline_runs(tmp_path / "run")
    assert read_back(file)["exit"] == 1


def test_other_modes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tracker.mode='cloud': must be offline or online"):
        track(tmp_path, mode="cloud")


def test_no_tracker_takes_the_same_and_writes_nothing(tmp_path):
    options = {"folder": tmp_path / "run", "run_id": "a", "name": "n", "group": "g", "config": {}}
    with NoTracker(**options) as tracker:
        tracker.log({"a": 1.0})
        tracker.summarize({"a": 1.0})
    assert not (tmp_path / "run").exists()


@pytest.fixture
def collected(tmp_path):
    folder = tmp_path / "sweep"
    (folder / "run").mkdir(parents=True)
    with RecordWriter(folder / "run" / "records.jsonl") as writer:
        for record in sweep(compressors=("tome",), videos=4, questions=3):
            writer.append(record)
    return folder, collect([folder], folder)


def test_the_sweep_has_one_run_with_table_chart_and_picture(collected):
    folder, rows = collected
    (file,) = offline_runs(folder)
    found = read_back(file)
    logged = {key for row in found["history"] for key in row}
    (path,) = (row["points.path"] for row in found["history"] if "points.path" in row)
    table = logged_table(file, path)
    assert sorted(r["accuracy_percent"] for r in table) == sorted(100 * p.accuracy for p in rows)
    assert {r["line"] for r in table} == {
        "full",
        *(f"tome {name}" for name in ("all-low", "all-high", "oracle", "attention", "random")),
    }
    assert any(key.startswith("accuracy_versus_compute") for key in logged)
    assert list(file.parent.rglob("curve_*.png"))


def test_collecting_again_piles_nothing_up(collected):
    folder, rows = collected
    (before,) = offline_runs(folder)
    written = before.read_bytes()
    assert collect([folder], folder) == rows
    assert offline_runs(folder) == [before]  # nothing changed: the same run, not written again
    with RecordWriter(folder / "run" / "records.jsonl") as writer:
        for record in sweep(compressors=("tome",), videos=5, questions=3):
            writer.append(record)
    collect([folder], folder)
    (after,) = offline_runs(folder)
    assert after.read_bytes() != written  # its folder is named by the second, which may be the same
    assert after.name == before.name  # the same id


def test_folders_of_one_name_have_ids_of_their_own():
    first, second = Path("outputs/sweeps/a/tome"), Path("outputs/sweeps/b/tome")
    assert place_id(first) != place_id(second)
    assert place_id(first) == place_id(Path("elsewhere").resolve() / "sweeps" / "a" / "tome")
