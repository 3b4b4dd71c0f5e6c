import json
import math
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.synthetic import sweep
from tests.wandb_files import logged_table, offline_runs, read_back
from x2l.analysis import run_metrics as metrics
from x2l.analysis.collect import collect
from x2l.analysis.compute_axes import AXES, front
from x2l.cli.collect import main
from x2l.runs.job_status import StatusFile
from x2l.runs.records import RecordWriter
from x2l.runs.trackers.base import sweep_run
from x2l.runs.trackers.wandb import WandbTracker, chosen_mode, upload_command

PLACES = ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own, so that what is written there shows."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in PLACES:
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    for name in (
        "WANDB_API_KEY",
        "WANDB_IDENTITY_TOKEN_FILE",
        "WANDB_BASE_URL",
        "NETRC",
        "WANDB_MODE",
        "WANDB_DISABLED",
        "WANDB_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    return home


def track(folder, **changes):
    options = {"run_id": "abc", "name": "n", "group": "g", "config": {"a": {"b": 1}}, **changes}
    return WandbTracker(folder=folder, **options)


def test_an_offline_run_holds_what_was_logged(tmp_path, home, capfd):
    records = sweep(compressors=("tome",), videos=4, questions=3)
    told = metrics.final(records)
    with track(tmp_path / "run") as tracker:
        for count in (60, len(records)):
            tracker.log(metrics.running(records[:count]))
        tracker.summarize(told)
        tracker.show_answers(metrics.answer_table(records))
    (file,) = offline_runs(tmp_path / "run")
    found = read_back(file)
    assert (found["id"], found["group"], found["exit"]) == ("abc", "g", 0)
    assert found["config"]["a"] == {"b": 1}
    *found["history"], shown = found["history"]
    rows = logged_table(file, shown["answers_table.path"])
    assert len(rows) == len(records) and {row["right"] for row in rows} <= {"yes", "no", "unknown"}
    bars = logged_table(file, shown["accuracy_by_cell_table.path"])
    assert {"full", "all-low", "all-high"} < {row["cell"] for row in bars}
    assert [row["answers"] for row in found["history"]] == [60, len(records)]
    last = found["history"][-1]
    assert last["accuracy/oracle k=1"] == told["final/oracle k=1/accuracy"]
    # By task, and compute by stage, in the run's summary.
    summary = found["summary"]
    for name in ("task/ordering/oracle k=1/accuracy", "final/random k=2/flops_prefill"):
        assert summary[name] == pytest.approx(told[name])
    assert {k for k in told if "seconds_decode" in k} <= summary.keys()
    assert list(home.rglob("*")) == []
    assert capfd.readouterr() == ("", "")


def test_a_failed_run_says_so(tmp_path):
    with pytest.raises(ZeroDivisionError), track(tmp_path / "run"):
        raise ZeroDivisionError
    (file,) = offline_runs(tmp_path / "run")
    assert read_back(file)["exit"] == 1


def test_every_run_of_a_process_writes_under_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "mine"))  # the user's own stays
    before = dict(os.environ)
    for name in ("first", "second"):
        with track(tmp_path / name, run_id=name):
            assert os.environ["WANDB_CACHE_DIR"].startswith(str(tmp_path / name))
            assert os.environ["WANDB_CONFIG_DIR"].startswith(str(tmp_path / name))
            assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "mine")
        assert {n: os.environ.get(n) for n in PLACES} == {n: before.get(n) for n in PLACES}


def test_a_user_without_a_name_or_a_home(tmp_path, home, monkeypatch):
    """As in a container that is given a number: W&B asks for a home, which then lies with the run."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    with track(tmp_path / "run") as tracker:
        tracker.log({"answers": 1})
        assert Path.home().is_relative_to(tmp_path / "run")
    assert "HOME" not in os.environ
    (file,) = offline_runs(tmp_path / "run")
    assert read_back(file)["exit"] == 0 and not list(home.iterdir())


def test_a_run_that_cannot_start_leaves_no_place_behind(tmp_path, monkeypatch):
    import wandb

    def refuses(**_):
        raise ConnectionError

    monkeypatch.setattr(wandb, "init", refuses)
    with pytest.raises(ConnectionError), track(tmp_path / "run"):
        pass
    assert not os.environ.keys() & set(PLACES)


def test_other_modes_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"tracker.mode='cloud': must be one of offline, online, disabled"
    ):
        track(tmp_path, mode="cloud")


def test_online_needs_a_key_before_anything_is_loaded(tmp_path, home, monkeypatch):
    with pytest.raises(ValueError, match=r"tracker.mode='online': needs a key .* WANDB_API_KEY"):
        track(tmp_path, mode="online")
    netrc = home / ".netrc"
    netrc.write_text("machine other.example login user password x\n")
    netrc.chmod(0o600)
    with pytest.raises(ValueError, match="needs a key"):
        chosen_mode("online")
    netrc.write_text("machine api.wandb.ai login user password x\n")
    chosen_mode("online")
    netrc.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    chosen_mode("online")


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected") / "sweep"
    (folder / "run").mkdir(parents=True)
    StatusFile(folder / "run", "x").write("done", records=1, expected=1)
    with RecordWriter(folder / "run" / "records.jsonl") as writer:
        for record in sweep(compressors=("tome",), videos=4, questions=3):
            writer.append(record)
    with pytest.MonkeyPatch.context() as patch:
        for name in PLACES:
            patch.setenv(name, "")
            patch.delenv(name)
        return folder, collect([folder], folder, WandbTracker(**sweep_run(folder)))


def test_the_sweep_has_one_run_with_tables_charts_front_picture_and_files(collected):
    folder, rows = collected
    (file,) = offline_runs(folder)
    found = read_back(file)
    assert found["group"] == "sweep" and found["config"]["points"] == len(rows)
    (logged,) = (row for row in found["history"] if "points.path" in row)
    table = logged_table(file, logged["points.path"])
    assert sorted(r["accuracy_percent"] for r in table) == sorted(100 * p.accuracy for p in rows)
    lines = {
        "full",
        *(f"tome {n}" for n in ("all-low", "all-high", "oracle", "attention", "random")),
    }
    assert {r["line"] for r in table} == lines
    by_task = logged_table(file, logged["points_by_task.path"])
    assert {r["task"] for r in by_task} == {"retrieval", "ordering", "counting"}
    for axis in AXES:
        key = f"accuracy_versus_{axis.name}"
        chart = found["config"][f"_wandb.visualize.{key}"]["panel_config"]
        fields = chart["fieldSettings"]
        drawn = logged_table(file, logged[f"{key}_table.path"])
        methods = lines - {"tome all-low", "tome all-high"}
        alike = {"tome all chunks alike", "Pareto front"}
        assert {r[fields["stroke"]] for r in drawn} == methods | alike
        best = front(rows, axis)
        on_front = [r for r in drawn if r["line"] == "Pareto front"]
        assert [r[fields["y"]] for r in on_front] == [100 * p.accuracy for p in best]
        ratios = {axis.value(p) / r[fields["x"]] for r, p in zip(on_front, best, strict=True)}
        assert len({f"{ratio:.6g}" for ratio in ratios}) == 1  # one unit throughout
        named = logged_table(file, logged[f"pareto_{axis.name}.path"])
        assert len(named) == len(best) and all(r["cell"].split()[0] in "tome full" for r in named)
        marked = [r for r in table if r[f"on_front_{axis.name}"]]
        assert len(marked) == len(best)
    files = {one["path"] for one in found["artifacts"]["sweep-results"]["manifest"]["contents"]}
    assert files == {"points.csv", "points_by_task.csv", "curve.png", "curve.pdf"}
    assert list(file.parent.rglob("curve_*.png"))


def test_collecting_again_piles_nothing_up(collected, tmp_path, capsys):
    folder = shutil.copytree(collected[0], tmp_path.joinpath(*collected[0].parts[-3:]))
    (before,) = offline_runs(folder)
    written = before.read_bytes()
    staged = len(list(folder.rglob("staging/*")))
    main([str(folder)])
    assert "to upload every run to W&B: wandb sync " in capsys.readouterr().out
    assert offline_runs(folder) == [before]  # nothing changed: the same run, not written again
    with RecordWriter(folder / "run" / "records.jsonl") as writer:
        for record in sweep(compressors=("tome",), videos=5, questions=3):
            writer.append(record)
    collect([folder], folder, WandbTracker(**sweep_run(folder)))
    (after,) = offline_runs(folder)
    assert after.read_bytes() != written  # its folder is named by the second, which may be the same
    assert after.name == before.name  # the same id
    assert len(list(folder.rglob("staging/*"))) == staged > 0


def test_one_command_uploads_every_run(tmp_path, monkeypatch):
    for run in ("sweep", "sweep/a", "sweep/b"):
        (tmp_path / run / "wandb" / f"offline-run-1-{run[-1]}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    command = upload_command([Path("sweep")])
    assert command == "wandb sync sweep/*/wandb/offline-run-* sweep/wandb/offline-run-*"
    matched = {p.name for word in command.split()[2:] for p in tmp_path.glob(word)}
    assert matched == {"offline-run-1-p", "offline-run-1-a", "offline-run-1-b"}
    assert upload_command([tmp_path / "sweep" / "wandb"]) is None


def test_values_without_a_number_are_not_told():
    told = metrics.final([r for r in sweep(("tome",), videos=2) if r.condition.selector == "none"])
    assert told and all(map(math.isfinite, told.values()))
    assert json.loads(json.dumps(told)) == told


def test_the_variables_of_wandb_count_where_nothing_is_configured(tmp_path, monkeypatch):
    assert chosen_mode(None) == "offline"
    for name, value, mode in (
        ("WANDB_MODE", "disabled", "disabled"),
        ("WANDB_MODE", "dryrun", "offline"),
        ("WANDB_DISABLED", "true", "disabled"),
    ):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert (chosen_mode(None), chosen_mode("offline")) == (mode, "offline")
    with monkeypatch.context() as context:
        context.setenv("WANDB_MODE", "cloud")
        with pytest.raises(ValueError, match="WANDB_MODE='cloud': must be one of offline"):
            chosen_mode(None)
        context.setenv("WANDB_MODE", "online")
        with pytest.raises(ValueError, match="WANDB_MODE='online': needs a key of W&B"):
            chosen_mode(None)
        context.setenv("WANDB_API_KEY", "too-short")
        with pytest.raises(ValueError, match="WANDB_API_KEY: must have 40 letters or more"):
            chosen_mode(None)
    with track(tmp_path / "off", mode="disabled") as tracker:
        tracker.log({"answers": 1.0})
    assert not list(tmp_path.rglob("*run-*")) and tracker.how_to_see([tmp_path]) == []
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "a b=[1] 数据"))
    with track(tmp_path / "run") as tracker:
        tracker.log({"answers": 1.0})
    (file,) = offline_runs(tmp_path / "a b=[1] 数据")
    assert not list((tmp_path / "run").rglob("*.wandb"))
    (_, told) = tracker.how_to_see([tmp_path / "run"])
    (found,) = subprocess.run(
        ["bash", "-c", told.partition("wandb sync ")[2].join(["ls -d ", ""])],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert Path(found).samefile(file.parent)
