"""The paper's experiments: each runs, composes with the published sets, and is driven by what its yaml says."""

import logging
import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose
from omegaconf import OmegaConf

from experiments.paper import make
from experiments.paper.kit.spec import FigureSpec
from tests.cli.test_conf import bind, nodes
from x2l.cli import run
from x2l.cli.compose import CONF, hydra_of_its_own, plain
from x2l.runs.records import load

# Those that do not say where answers lie; vnbench does.
WITHOUT_SPANS = ("mlvu", "videomme", "longvideobench")


def examples(name):
    """The commands of an experiment for other models and sets, or with weights to download."""
    lines = [line.strip() for line in make.header(name) if line.startswith("  x2l ")]
    return [shlex.split(line)[2:] for line in lines]


def test_an_experiment_is_a_pair_of_a_yaml_and_a_module():
    yamls = {path.stem for path in (CONF / "experiment").glob("*.yaml")} - {"demo"}
    folder = Path(make.__file__).parent / "figures"
    assert yamls == {path.stem for path in folder.glob("*.py")} == set(make.NAMES)
    for name in make.NAMES:
        assert isinstance(make.spec_of(name), FigureSpec)
        assert f"python -m experiments.paper.make {name} --records" in "\n".join(make.header(name))


@pytest.mark.parametrize(("number", "name"), list(enumerate(make.NAMES)))
def test_an_experiment_composes_for_a_real_checkpoint(number, name):
    """With spans, and without them: then nothing is left that would have to know where answers lie."""
    config = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert not re.search(r"^(benchmark|model|video):", config, re.M)  # of one set or model only
    of_qwen = [words for words in examples(name) if "model=qwen2_5_vl_7b" in words]
    (spans,) = [words for words in of_qwen if "benchmark=vnbench" in words]
    (none,) = [words for words in of_qwen if "benchmark=mlvu" in words]
    other = WITHOUT_SPANS[number % 3]
    none = [word.replace("benchmark=mlvu", f"benchmark={other}") for word in none]
    with hydra_of_its_own():
        for words in (spans, none):
            values = plain(compose("config", words))
            for at, node in nodes(values):
                bind(at, node)
            assert values["model"]["name_or_path"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    told = {node["_target_"].split(".")[-1] for _, node in nodes(values["selector"])}
    assert not told & {"OracleSelector", "HitRateSelector"}
    assert all(selector.get("to") != "oracle" for selector in values["selector"].values())
    top_k = values["top_k"] if isinstance(values["top_k"], list) else [values["top_k"]]
    assert "gt" not in top_k


def test_the_retriever_is_one_override_away():
    lines = [words for words in examples("paper_selectors") if "model=" not in shlex.join(words)]
    with hydra_of_its_own():
        composed = [plain(compose("config", words))["selector"]["retriever"] for words in lines]
    owners = [retriever["name_or_path"].partition("/")[0] for retriever in composed]
    assert owners == ["openai", "LanguageBind"]


@pytest.mark.parametrize("name", ["paper_main", "paper_selectors"])
def test_the_paper_s_own_retriever_is_one_override_away(name):
    with hydra_of_its_own():
        words = [f"experiment={name}", "selector=[all,none,languagebind,random]"]
        told = plain(compose("config", words))["selector"]["languagebind"]
    bind("selector.languagebind", told)
    assert told["name_or_path"] == "LanguageBind/LanguageBind_Video_FT"
    head = (CONF / "experiment" / f"{name}.yaml").read_text().partition("defaults:")[0]
    assert "LanguageBind" in head and "languagebind" in head


def tiny(command):
    """A command cut to one question and to the last value of each of its axes."""
    config = OmegaConf.load(CONF / "experiment" / f"{command.name}.yaml")
    axes = {key: str(value) for key, value in config.hydra.sweeper.params.items()}
    removed = [word for word in command.words if word.startswith("~")]
    for word in command.words[2:]:
        key, given, value = word.partition("=")
        axes |= {key: value} if given else {}
    last = {key: re.split(r",(?![^\[]*\])", value)[-1] for key, value in axes.items()}
    if "benchmark.seconds" in last:
        last |= {"benchmark.seconds": "32", "video.frames": "32"}
    return [*(f"{key}={value}" for key, value in last.items()), *removed]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize("name", make.NAMES)
def test_an_experiment_runs_on_the_tiny_model(tmp_path, videos, monkeypatch, name):
    """Every command of it, in this process: one question about one video, one value of each axis, so one run."""
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    for number, command in enumerate(make.commands(name)):
        assert command.words[:2] == ("x2l", "-m")
        words = [*tiny(command), "benchmark.videos=1", "limit=1", f"benchmark.root={videos}"]
        words += ["hydra.mode=RUN", f"hydra.run.dir=runs/{number}", "max_new_tokens=1"]
        words += ["hydra/job_logging=none", "hydra/hydra_logging=none"]
        words = list({word.partition("=")[0]: word for word in words}.values())
        monkeypatch.setattr(sys, "argv", ["x2l", *words])
        run.main()
    logging.getLogger().setLevel(level)
    found = [load(path) for path in tmp_path.rglob("records.jsonl")]
    assert len(found) == len(make.commands(name)) and all(found)
    assert {record.condition.model for records in found for record in records} == {"x2l_tiny"}
