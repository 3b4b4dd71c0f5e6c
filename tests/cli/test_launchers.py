"""Engines of a sweep: what the presets say, and what is said of one that cannot be had. The engines: tests/cluster/."""

import re
import subprocess
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from x2l.cli import launchers
from x2l.cli.compose import CONF, engine, own_launchers
from x2l.cli.hydra_callbacks import LauncherCheck
from x2l.cli.launchers import EXTRAS, check_launcher, requeue_ends_the_process
from x2l.evaluation.settings import ConfigError

ROOT = Path(__file__).parents[2]
PRESETS = sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))


def preset(name, *overrides):
    from tests.cli.test_conf import composed

    given = (f"hydra/launcher={name}", "hydra.sweep.dir=outputs/s", *overrides)
    return composed(*given, whole=True).hydra


def target(name):
    return preset(name).launcher["_target_"]


@pytest.fixture
def installed(monkeypatch):
    """Which plugins can be imported, whatever this environment has."""
    there = set()
    monkeypatch.setattr(
        launchers.importlib.util,
        "find_spec",
        lambda name: ModuleSpec(name, None) if there and name.split(".")[-1] in there else None,
    )
    monkeypatch.setattr(launchers.shutil, "which", lambda name: None)
    return there


def test_there_is_a_preset_for_every_engine_and_basic_is_the_default():
    assert PRESETS == ["joblib", "ray", "submitit_local", "submitit_slurm"]
    assert preset("basic").launcher["_target_"].endswith(".BasicLauncher")


def test_a_users_own_application_keeps_the_launchers_of_its_plugins(monkeypatch):
    """Whether a plugin is installed here or not: one of the same name as a preset of ours."""
    theirs = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.setitem(theirs, "joblib.yaml", node := object())
    before = dict(theirs)
    with own_launchers():
        assert "joblib.yaml" not in theirs and "basic.yaml" in theirs
    assert theirs == before and theirs["joblib.yaml"] is node
    engine([])
    assert theirs == before


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_ours_and_not_the_plugins_of_the_same_name(name):
    """Without the extra there is nothing else; with it, Hydra must neither merge nor warn."""
    launcher = OmegaConf.to_container(preset(name).launcher, resolve=True)
    own = OmegaConf.load(CONF / "hydra" / "launcher" / f"{name}.yaml")
    assert list(launcher) == list(own)
    assert launcher["_target_"].split(".")[1] in EXTRAS


def test_presets_run_no_more_jobs_at_once_than_asked_for(monkeypatch):
    monkeypatch.setenv("X2L_JOBS", "3")
    assert preset("joblib").launcher.n_jobs == 3
    first, *_, wait = preset("submitit_local").launcher.setup
    assert first == "at_once=3" and "seq $at_once" in wait and "flock -n" in wait
    monkeypatch.delenv("X2L_JOBS")
    assert preset("joblib").launcher.n_jobs == 2
    assert preset("submitit_local").launcher.setup[0] == "at_once=2"
    slurm = preset("submitit_slurm", "hydra.launcher.array_parallelism=7").launcher
    assert slurm.array_parallelism == 7 and slurm.max_num_timeout > 0
    assert slurm.submitit_folder == "outputs/s/.submitit/%j"
    half = preset("ray", "hydra.launcher.ray.remote.num_gpus=0.5").launcher
    assert half.ray.remote.num_gpus == 0.5


def test_a_place_is_had_by_one_process_at_a_time(tmp_path, monkeypatch):
    """The shell lines of submitit_local, with one place: the second process waits for the first."""
    monkeypatch.setenv("X2L_JOBS", "1")
    lines = preset("submitit_local", f"hydra.sweep.dir={tmp_path}").launcher.setup
    job = "echo begin >> log; sleep 0.3; echo end $OMP_NUM_THREADS >> log"
    shell = " && ".join([*lines, f"( {job} )"])
    running = [subprocess.Popen(shell, shell=True, cwd=tmp_path) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    told = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in told] == ["begin", "end"] * 3
    assert all(int(line.split()[1]) >= 1 for line in told[1::2])


@pytest.mark.parametrize("name", PRESETS)
def test_a_missing_extra_is_named_in_one_line(name, installed):
    with pytest.raises(ConfigError) as told:
        check_launcher(name, target(name))
    (extra,) = re.findall(r"pip install 'x2l\[(\w+)\]'$", str(told.value))
    assert f"hydra/launcher={name}: " in str(told.value) and "\n" not in str(told.value)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    plugin = target(name).split(".")[1].replace("_", "-")
    assert any(requirement.startswith(plugin) for requirement in extras[extra])


def test_slurm_needs_its_commands(installed, monkeypatch):
    installed |= {"hydra_plugins", "hydra_submitit_launcher"}
    check_launcher("submitit_local", target("submitit_local"))
    with pytest.raises(ConfigError, match="submitit_slurm: finds no srun"):
        check_launcher("submitit_slurm", target("submitit_slurm"))
    monkeypatch.setattr(launchers.shutil, "which", lambda name: f"bin/{name}")
    check_launcher("submitit_slurm", target("submitit_slurm"))


def test_a_sweep_ends_before_it_begins_where_its_engine_is_missing(installed, capsys, tmp_path):
    from tests.cli.test_conf import composed

    config = composed("hydra/launcher=ray", f"hydra.sweep.dir={tmp_path / 's'}", whole=True)
    order = list(config.hydra.callbacks)
    assert order.index("launcher") < order.index("journal")  # which writes into the sweep's folder
    with pytest.raises(SystemExit) as ended:
        LauncherCheck().on_multirun_start(config)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert told.startswith("error: hydra/launcher=ray: needs") and "x2l[ray]" in told
    LauncherCheck().on_multirun_start(composed(whole=True))  # basic


def test_a_requeue_that_is_cut_off_by_what_it_asked_for_is_no_error():
    def fails(*command, code):
        with requeue_ends_the_process():
            raise subprocess.CalledProcessError(code, list(command))

    with pytest.raises(SystemExit):
        fails("scontrol", "requeue", "7_0", code=-15)
    with pytest.raises(subprocess.CalledProcessError):  # SLURM has refused
        fails("scontrol", "requeue", "7_0", code=1)
    with pytest.raises(subprocess.CalledProcessError):
        fails("ffmpeg", "-version", code=-15)
