"""What the README tells users to type exists and composes."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from x2l.cli.compose import CONF, plain

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
SHELL = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.S)).splitlines()
COMMANDS = [line.split("#")[0].strip() for line in SHELL if re.match(r"x2l(\s|$)", line)]


def test_there_are_commands():
    assert "x2l" in COMMANDS and any(" -m" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command):
    words = [word for word in shlex.split(command)[1:] if word != "-m"]
    first = [re.sub(r"=([^,\[\]]+),.*", r"=\1", word) for word in words]  # one point of a sweep
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain(compose("config", first))


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", TEXT, re.M))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_files_that_are_named_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", TEXT)
    tree = TEXT.split("## Files")[1].split("```")[1]
    modules = re.findall(r"\b\w+\.py\b", tree)
    assert links and len(modules) > 10
    assert all((ROOT / link).exists() for link in links)
    places = [ROOT / "x2l", ROOT / "x2l" / "models"]
    assert all(any((place / name).exists() for place in places) for name in modules)


def test_the_python_example_is_real():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    imports = [line for line in block.splitlines() if line.startswith("from ")]
    assert len(imports) >= 5
    exec("\n".join(imports), {})
    compile(block, "README.md", "exec")
