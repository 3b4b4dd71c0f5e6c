"""Methods of one's own in every command: a folder named by an option or by the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import x2l
from tests import fork_server
from x2l.cli import data
from x2l.cli.compose import CONFIG_DIR, config_dir, engine
from x2l.cli.plan import jobs_of, plan_job
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.evaluation.settings import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of a compressor and a benchmark, under a name that means something to Hydra."""
    monkeypatch.delenv(CONFIG_DIR, raising=False)
    mine = tmp_path / "it's mine, = here"
    for group in ("compressor", "benchmark"):
        (mine / group).mkdir(parents=True)
    target = "x2l.compressors.pruning_by_keys.KeyNorm"
    (mine / "compressor" / "mine.yaml").write_text(f"_target_: {target}\n")
    (mine / "benchmark" / "mine.yaml").write_text(
        "defaults: [jsonl]\nfile: " + str(tmp_path / "my.jsonl") + "\n"
    )
    (tmp_path / "my.jsonl").write_text('{"video": "gone.mp4", "question": "Who?"}\n')
    return str(mine)


def test_the_option_holds_inside_and_nowhere_else(folder):
    with config_dir(folder):
        assert isinstance(engine(["compressor=mine"]).levels["low"].compressor, KeyNorm)
    assert CONFIG_DIR not in os.environ
    with pytest.raises(ConfigError, match="compressor/mine"):
        engine(["compressor=mine"])
    with config_dir("nowhere"), pytest.raises(ConfigError, match="nowhere: no such folder"):
        engine([])


def test_the_environment_names_it_for_a_plan(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG_DIR, folder)
    few = [f"paths.data={tmp_path}", "video.frames=8", "top_k=1"]
    jobs = jobs_of(["compressor=mine,tome", *few], True)
    plans = [plan_job(job, {}, (None, None, None)) for job in jobs]
    assert len(plans) == 2 and plans[0].flops()["prefill"] == plans[1].flops()["prefill"] > 0


def test_x2l_data_takes_the_option(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        data.main(["check", "--config-dir", folder, "benchmark=mine"])
    assert ended.value.code == 1 and "gone.mp4" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_x2l_speaks_of_itself(tmp_path, flag):
    done = subprocess.run(
        [sys.executable, "-m", "x2l.cli.run", flag],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    version = f"x2l {x2l.__version__}\n"
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    assert done.stdout == version if flag == "--version" else "x2l -m compressor" in done.stdout


def test_x2l_takes_the_environment(folder, tmp_path):
    words = ["compressor=mine", "--cfg", "job", "--package", "levels.low.compressor"]
    environment = {**os.environ, CONFIG_DIR: str(folder), "PYTHONPATH": str(ROOT)}
    done = fork_server.run("x2l.cli.run", *words, cwd=tmp_path, env=environment)
    assert "KeyNorm" in done.stdout, done.stderr
