"""The command line, in processes of its own: exit status, what is printed, where things lie."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import fork_server
from tests.synthetic import record
from x2l.cli import run as cli_run
from x2l.evaluation.runner import Summary

ROOT = Path(__file__).parents[2]
# A real but short run: two generated videos of 16 seconds.
SMALL = ["benchmark.videos=2", "benchmark.seconds=16", "benchmark.questions=1", "tracker=none"]
SMALL += ["video.frames=16", "max_new_tokens=2"]
pytestmark = pytest.mark.slow


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def x2l(cwd, *arguments, module="x2l.cli.run", path=ROOT):
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{path}"}
    return fork_server.run(module, *arguments, cwd=cwd, env=environment)


def test_a_run_whose_answers_are_all_unparsed_says_so_in_its_last_line(tmp_path, capsys):
    some = [
        record(sample_id=f"{n}", prediction="Well", parsed=None, correct=None) for n in range(3)
    ]
    for records, told in ((some, True), ([*some, record(sample_id="3")], False)):
        cli_run._report(Summary(tuple(records), 3, 3, ("clip: cut off",)), tmp_path)
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("warning: all 3 answers are unparsed" if told else "error: clip")


def states(folder):
    return {p.parent.name: json.loads(p.read_text())["state"] for p in folder.rglob("status.json")}


def test_one_run_prints_results_and_where_they_lie(tmp_path):
    done = x2l(tmp_path, *SMALL, "selector=[all,oracle]", "top_k=[0,1]", "hydra.run.dir=outputs/r")
    assert done.returncode == 0, done.stderr
    assert "95% interval" in done.stdout and "GFLOPs" in done.stdout
    assert "18 of 18 answers, 18 of them new, in outputs/r/" in done.stdout
    folder = tmp_path / "outputs" / "r"
    names = {"records.jsonl", "run.json", "status.json", "points.csv", ".hydra"}
    assert names <= {path.name for path in folder.iterdir()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outputs"]
    info = json.loads((folder / "run.json").read_text())
    assert info["config"]["benchmark"]["root"] == "outputs/data/needle"  # resolved
    (session,) = info["sessions"]
    assert session["overrides"][-2:] == ["selector=[all,oracle]", "top_k=[0,1]"]

    again = x2l(tmp_path, *SMALL, "selector=[all,oracle]", "top_k=[0,1]", "hydra.run.dir=outputs/r")
    assert (again.returncode, "0 of them new" in again.stdout) == (0, True)

    other = x2l(tmp_path, *SMALL, "levels.high.ratio=16", "hydra.run.dir=outputs/r")
    assert other.returncode == 2
    assert "levels.high.ratio: 32 there, 16 now" in other.stderr


def test_what_cannot_be_resolved_leaves_another_runs_status_alone(tmp_path):
    run = tmp_path / "r"
    run.mkdir()
    bad = [*SMALL, "seed=${nope.x}", "hydra.run.dir=r"]
    for name, values in (
        ("status.json", {"state": "done", "run_id": "a", "records": 6}),
        ("run.json", {}),
    ):
        (run / name).write_text(json.dumps(values))
        done = x2l(tmp_path, *bad)
        assert done.returncode == 2 and "nope" in done.stderr
        assert json.loads((run / name).read_text()) == values
        (run / name).unlink()
    assert states(tmp_path) == {}


BROKEN = """
from dataclasses import dataclass
from x2l.compressors import ScoredPruning

@dataclass(frozen=True)
class Broken(ScoredPruning):
    name: str = "broken"
    def score(self, kv, seen):
        raise ZeroDivisionError("inside the method")
    def flops(self, sizes):
        return 0
"""


def test_a_sweep_goes_on_past_every_kind_of_bad_job_and_resumes(tmp_path):
    """A bad checkpoint name, a wrong value, an exception inside; in batches, of which none stops the next."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "my" / "compressor").mkdir(parents=True)
    (tmp_path / "my" / "compressor" / "broken.yaml").write_text("_target_: broken.Broken\n")
    sweep = ["--config-dir", "my", "-m", *SMALL, "hydra.sweep.dir=outputs/s", "selector=none"]
    sweep += ["model.name_or_path=x2l_tiny,./nowhere", "compressor=broken,key_norm"]
    sweep += ["levels.high.ratio=0.5,8", "hydra.sweeper.max_batch_size=3"]
    first = x2l(tmp_path, *sweep, path=tmp_path)
    assert first.returncode == 1
    folder = tmp_path / "outputs" / "s"
    assert sorted(states(folder).values()) == ["done", *["failed"] * 7]
    wrong = "levels.high.ratio=0.5: must be tokens in / tokens out"
    inside = "ZeroDivisionError: inside the method"
    assert f"error: {wrong}" in first.stderr
    for run in folder.glob("*-8x-*"):
        status, log = json.loads((run / "status.json").read_text()), (run / "run.log").read_text()
        told = inside if "x2l_tiny" in str(status["overrides"]) else "./nowhere: no such"
        if status["state"] == "failed":
            assert told in log and told in status["error"] and f"{run.name}: failed" in first.stderr
            assert ("Traceback" in log) == (told == inside)
    for run in folder.glob("*-0.5x-*"):
        assert wrong in (run / "run.log").read_text()
    assert "x2l-collect outputs/s" in first.stdout
    (records,) = (file for file in folder.rglob("records.jsonl") if file.stat().st_size)
    before = records.read_bytes()
    again = x2l(tmp_path, *sweep, path=tmp_path)
    assert again.returncode == 1 and records.read_bytes() == before
    assert len((folder / "sweep.jsonl").read_text().splitlines()) == 2

    shown = x2l(tmp_path, "outputs/s", module="x2l.cli.status")
    assert shown.returncode == 1 and "8 jobs: 1 done, 7 failed; 6 answers" in shown.stdout
    collected = x2l(tmp_path, "outputs/s", "--tracker", "none", module="x2l.cli.collect")
    assert collected.returncode in (
        1,
        2,
    )  # the bad jobs are named; a model may parse nothing at all
    assert (folder / "points.csv").read_text().count("\n") == 1 + 1


def test_a_bad_video_gives_a_result_and_a_bad_exit_status(tmp_path):
    run = [*SMALL, "selector=none", "hydra.run.dir=outputs/r"]
    assert x2l(tmp_path, *run, "limit=1").returncode == 0
    videos = sorted((tmp_path / "outputs").rglob("*.mp4"))
    videos[1].write_bytes(b"")
    done = x2l(tmp_path, *run)
    assert done.returncode == 1
    assert "error: " in done.stderr and "empty" in done.stderr
    assert "3 of 6 answers, 2 of them new" in done.stdout
    assert states(tmp_path / "outputs") == {"r": "done-with-errors"}


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    run = [*SMALL, "benchmark.videos=8", "selector=[none,oracle]", "hydra.run.dir=outputs/r"]
    with (tmp_path / "told").open("w") as file:
        process = fork_server.Process(
            "x2l.cli.run", run, tmp_path, ENVIRONMENT, [0, file.fileno(), file.fileno()]
        )
        records = tmp_path / "outputs" / "r" / "records.jsonl"
        while not process.ended() and not (records.exists() and records.read_bytes()):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130
    told = (tmp_path / "told").read_text()
    assert told.splitlines()[-1].startswith("interrupted; the same command with hydra.run.dir=")
    assert states(tmp_path / "outputs") == {"r": "interrupted"}


WRONG = {
    "levels.low.ratio=0.5": "error: levels.low.ratio=0.5: must be",
    "top_k=99": "error: top_k=99: ",
    "prefill.chunk_frames=3": "error: prefill.chunk_frames=3: must be a multiple",
    "benchmark.split=tset": "error: benchmark.split='tset': must be one of",
    "benchmark.videos=two": "error: benchmark.videos=two: must be a whole number",
    "tracker.mode=cloud": "error: tracker.mode='cloud': must be",
    "model.name_or_path=./nowhere": "error: model.name_or_path=./nowhere: no such",
    "selector=file": "error: selector.file.path=None: no such file; give",
    "selector=retriever selector.retriever.name_or_path=./nowhere": (
        "fetch it with `hf download ./nowhere` or name a local folder"
    ),
    "top_k=task selection.top_k_by_task={retrieval:1} selection.tuned_on=test": (
        "error: selection.tuned_on=test: must differ from the split that is evaluated, needle/test"
    ),
    "selector=atention": "Could not find 'selector/atention'",
    "seed=${nope.x}": "nope",
    "topk=3": "error: topk: there is no such setting; did you mean top_k?",
}
UNFIT = {
    "compressor=snapkv compressor.window=8": (
        "error: compressor.window=8: changes no level; use levels.low.compressor.window=8 and"
    ),
    "compressor=snapkv levels.high.compressor.window=64 selector=none": "error: snapkv: window=64",
}


def refused(patch, capsys, *words):
    """What the command says of a value that it refuses, in this process."""
    unlogged = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.run.dir=outputs/r"]
    patch.setattr(sys, "argv", ["x2l", *SMALL, *words, *unlogged])
    patch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as ended:
        cli_run.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and "Traceback" not in told.err + told.out
    return told.err


@pytest.mark.parametrize("overrides", WRONG)
def test_a_wrong_value_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch, capsys, overrides):
    monkeypatch.chdir(tmp_path)
    told = refused(monkeypatch, capsys, "tracker=wandb", *overrides.split())
    assert WRONG[overrides] in told
    assert not (tmp_path / "outputs" / "r").exists()


@pytest.mark.parametrize("overrides", UNFIT)
def test_what_a_method_cannot_do_is_one_line(tmp_path, monkeypatch, capsys, overrides):
    monkeypatch.chdir(tmp_path)
    assert UNFIT[overrides] in refused(monkeypatch, capsys, *overrides.split())


@pytest.mark.parametrize("overrides", ["levels.low.ratio=0.5", "selector=atention"])
def test_a_process_with_a_log_of_its_own_says_the_same(tmp_path, overrides):
    """Refused by a setting's own check, and by Hydra."""
    done = x2l(tmp_path, *SMALL, "hydra.run.dir=outputs/r", overrides)
    assert done.returncode == 2 and WRONG[overrides] in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "outputs" / "r").exists()


def test_values_are_checked_before_what_is_slow_to_import(tmp_path):
    """One after the other, each with what is imported by then."""
    wrong = ["levels.low.ratio=0", "model.name_or_path=./nowhere", "tracker.mode=cloud"]
    code = (
        "import sys\nfrom x2l.cli.run import main\n"
        f"for override in {[*wrong, 'benchmark.split=tset']}:\n"
        "    sys.argv[1:] = [override, 'hydra.run.dir=r']\n"
        "    try:\n        main()\n"
        "    except SystemExit as error:\n"
        "        slow = {'torch', 'transformers', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "        print('>', error.code, *sorted(slow))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    ends = [line for line in done.stdout.splitlines() if line.startswith("> ")]
    assert ends == [*["> 2"] * len(wrong), "> 2 torch"]


def test_the_demo_runs_on_one_short_video(tmp_path):
    """Few cells; the axes are its own. The other experiments run in tests/experiments/test_paper.py."""
    few = ["benchmark.videos=1", "benchmark.seconds=24", "benchmark.questions=1", "limit=1"]
    few += ["selector=[none,oracle]", "top_k=1", "max_new_tokens=1", "tracker=none"]
    done = x2l(tmp_path, "-m", "experiment=demo", *few, "hydra.sweep.dir=outputs/s")
    assert done.returncode == 0, done.stderr
    found = states(tmp_path / "outputs" / "s")
    assert found and set(found.values()) == {"done"}
