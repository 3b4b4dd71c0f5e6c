"""Every file in conf/ composes, resolves, and fits the signature of what it names."""

import inspect
import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object
from omegaconf import OmegaConf

from x2l.run import CONF, plain, run_folder
from x2l.settings import CONTEXTS, DTYPES, POSITION_RULES, POSITIONS

GIVEN = {"tracker": {"folder", "run_id", "name", "group", "config"}}  # by run.py, at run time
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent not in (CONF, CONF / "experiment")
)


def composed(*overrides, whole=False):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=whole)


def nodes(values, at=""):
    """(path, node) of everything with a `_target_`."""
    if isinstance(values, dict):
        if "_target_" in values:
            yield at, values
        for key, value in values.items():
            yield from nodes(value, f"{at}.{key}" if at else str(key))


def bind(at, node):
    target = get_object(node["_target_"])
    arguments = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    given = dict.fromkeys(GIVEN.get(at, ()))
    inspect.signature(target).bind(**arguments, **given)


def test_there_are_files_to_test():
    groups = {group for group, _ in OPTIONS}
    assert {"model", "benchmark", "compressor", "selector", "prefill", "tracker"} <= groups
    assert {"demo", "needle_main"} <= set(EXPERIMENTS)
    assert len(OPTIONS) >= 20


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_binds(group, option):
    values = plain(composed(f"{group}={option}"))
    found = dict(nodes(values))
    for at, node in found.items():
        bind(at, node)
    expected = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
    expected.pop("defaults", None)
    mounted = {
        "compressor": [
            values["levels"]["low"]["compressor"],
            values["levels"]["high"]["compressor"],
        ]
    }.get(group, [values[group]])
    assert all(set(expected) <= set(place) for place in mounted)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_binds_with_each_value_of_its_axes(name):
    config = composed(f"experiment={name}", whole=True)
    axes = dict(config.hydra.sweeper.params)
    assert axes and str(config.hydra.mode) == "RunMode.MULTIRUN"
    for axis, values in axes.items():
        for value in str(values).split(","):
            for at, node in nodes(plain(composed(f"experiment={name}", f"{axis}={value}"))):
                bind(at, node)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_opens_with_the_command_that_runs_it(name):
    first, second, *_ = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"  # Hydra reads it on the first line only
    assert second.startswith("# x2l ") and f"experiment={name}" in second


def test_a_wrong_argument_is_caught():
    with pytest.raises(TypeError, match="needels"):
        bind("benchmark", {**composed().benchmark, "needels": 3})


def test_compressor_sets_both_levels_and_each_can_have_its_own():
    def targets(*overrides):
        levels = composed(*overrides).levels
        return [levels[level].compressor._target_.split(".")[-1] for level in ("low", "high")]

    assert targets("compressor=mean_pool") == ["MeanPool", "MeanPool"]
    both = ["compressor=tome", "compressor@levels.high.compressor=mean_pool"]
    assert targets(*both) == ["ToMe", "MeanPool"]
    assert targets("compressor@levels.low.compressor=key_norm")[0] == "KeyNorm"


def test_selector_takes_one_name_or_a_list():
    assert list(composed("selector=oracle").selector) == ["oracle"]
    three = composed("selector=[oracle,attention,random]", "seed=7").selector
    assert list(three) == ["oracle", "attention", "random"]
    assert three.random.seed == 7
    with pytest.raises(ConfigCompositionException, match=r"selector/bogus(.|\n)*attention"):
        composed("selector=bogus")


def test_unknown_keys_are_refused():
    with pytest.raises(ConfigCompositionException):
        composed("levels.low.ration=2")


def test_a_run_folder_is_named_by_what_is_computed():
    def name(*overrides):
        return run_folder(_root_=composed(*overrides, whole=True))

    assert name("compressor=tome").startswith("tome-2x-32x-")
    assert name("compressor=tome", "compressor@levels.high.compressor=mean_pool").startswith(
        "tome+mean_pool-2x-32x-"
    )
    same = {name(), name("limit=3"), name("selector=oracle", "top_k=[0,1]"), name("tracker=none")}
    other = {name("video.frames=64"), name("levels.low.ratio=4"), name("seed=1")}
    assert len(same) == 1 and len(same | other) == 4


def test_outputs_stay_under_outputs():
    config = composed(whole=True)
    assert config.hydra.run.dir.startswith("outputs/runs/")
    assert config.hydra.sweep.dir.startswith("outputs/sweeps/")
    assert config.benchmark.root.startswith("outputs/")


def test_values_that_are_checked_early_are_those_of_the_engine():
    """settings.py repeats a few words of the engine, so as not to import it; they must agree."""
    from x2l import prefill, store
    from x2l.models import hf

    assert CONTEXTS == prefill.CONTEXTS
    assert POSITIONS == store.POSITIONS
    assert DTYPES == loading.DTYPES
    assert POSITION_RULES == hf.POSITION_RULES


def test_no_path_of_a_machine_in_any_file():
    for path in CONF.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            assert not re.search(r"(^|[\s:=])(~|/\w+/)", line.split("#")[0]), path
