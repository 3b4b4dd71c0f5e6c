"""What the README tells users to type exists and composes."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose

from x2l.cli.compose import hydra_of_its_own, plain
from x2l.video import write_video

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
SHELL = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.S)).splitlines()
COMMANDS = [line.split("#")[0].strip() for line in SHELL if re.match(r"x2l(\s|$)", line)]


def test_there_are_commands():
    assert any(" -m" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command):
    words = [word for word in shlex.split(command)[1:] if word != "-m"]
    first = [re.sub(r"=([^,\[\]]+),.*", r"=\1", word) for word in words]  # one point of a sweep
    with hydra_of_its_own():
        plain(compose("config", first))


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", TEXT, re.M))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_files_that_are_named_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", TEXT)
    assert len(links) > 10 and all((ROOT / link).exists() for link in links)
    tree = TEXT.split("## Where things are")[1].split("```")[1]
    rooms = re.findall(r"^  (\w+)(/|\.py)", tree, re.M)
    packages = {path.parent.name for path in (ROOT / "x2l").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "x2l").glob("[!_]*.py")}
    assert {name for name, _ in rooms} == packages | modules


def test_it_is_short():
    assert len(TEXT.split()) <= 1500


def test_the_commands_are_put_on_the_path():
    """Every block must run as pasted in a fresh shell."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    assert blocks and all(
        re.match(r"(source \.venv/bin/activate|make )", block) for block in blocks
    )


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(re.findall(r"^\w", block, re.M)) <= 7
    (path,) = re.findall(r"outputs/\S+\.mp4", block)
    video = tmp_path / "video.mp4"
    write_video(video, torch.zeros(128, 64, 64, 3, dtype=torch.uint8).numpy(), 1)
    exec(compile(block.replace(path, str(video)), "README.md", "exec"), {})
    assert "(" in capsys.readouterr().out
