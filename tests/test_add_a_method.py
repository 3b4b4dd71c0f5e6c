"""The README's "Add a method", followed to the letter: its files written, its command run, on needle videos."""

import json
import os
import re
from pathlib import Path
from textwrap import dedent

import pytest

from tests import fork_server

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "README.md").read_text().split("## Add a method")[1].split("\n## ")[0]
FEW = ["benchmark.videos=1", "benchmark.seconds=16", "benchmark.questions=1", "video.frames=16"]
FEW += ["max_new_tokens=2", "selector=[none,all]", "tracker=none", "hydra.run.dir=outputs/r"]


@pytest.mark.slow
def test_the_readme_adds_a_method_without_touching_x2l(tmp_path):
    (code,) = re.findall(r"```py\n(.*?)```", SECTION, re.S)
    ((module, config, line),) = re.findall(
        r"In `(\S+\.py)`.*?in `(\S+\.yaml)` one line, `(.*?)`", SECTION, re.S
    )
    (command,) = re.findall(r"`PYTHONPATH=\. (x2l .*?)`", SECTION)
    assert len([row for row in dedent(code).splitlines() if row.strip()]) <= 10
    (tmp_path / module).write_text(dedent(code))
    (tmp_path / config).parent.mkdir(parents=True)
    (tmp_path / config).write_text(line + "\n")
    program, *words = command.split()
    assert program == "x2l"

    def run():
        environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        asked = [*words, *FEW, "levels.high.ratio=7"]
        return fork_server.run("x2l.cli.run", *asked, cwd=tmp_path, env=environment)

    done = run()
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "r"
    levels = json.loads((folder / "run.json").read_text())["config"]["levels"]
    assert {level["compressor"]["_target_"] for level in levels.values()} == {"contrast.Contrast"}
    rows = [json.loads(row) for row in (folder / "records.jsonl").read_text().splitlines()]
    assert len(rows) >= 2 and all(
        level["compressor"] == "contrast" for row in rows for level in row["levels"]
    )
    assert all(6 < row["measured_ratio"]["high"] <= 7 for row in rows)
    # Edited, and gone on with: the records that are there came from other code, which is said.
    records = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(records[:-1]))
    (tmp_path / module).write_text(dedent(code).replace("norm(dim=-1)", "norm(dim=-1) + 1"))
    again = run()
    assert again.returncode == 0 and "records made by other source code" in again.stdout
