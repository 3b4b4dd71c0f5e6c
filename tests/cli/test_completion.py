"""TAB: what is proposed exists, comes from the chosen files, and needs no Hydra."""

import os
import subprocess
import sys

import pytest

from x2l.cli.completion import suggestions
from x2l.cli.folders import CONF


def after(line, own=None):
    return suggestions(line.split(" "), CONF, own)


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("comp", ["compressor.", "compressor="]),
        ("compressor=tom", ["compressor=tome"]),
        ("~codec=int", ["~codec=int4", "~codec=int8"]),
        ("-m compressor=key_norm,tom", ["compressor=key_norm,tome"]),
        ("selector=[none,ora", ["selector=[none,oracle"]),
        ("+compressor@levels.mid.compressor=tom", ["+compressor@levels.mid.compressor=tome"]),
        ("levels.high.r", ["levels.high.ratio="]),
        ("benchmark.vid", ["benchmark.videos="]),
        ("benchmark=mlvu benchmark.pro", ["benchmark.protocol="]),
        ("compressor=tome levels.low.compressor.x", []),
        ("selector=[none,keys] selector.keys.he", ["selector.keys.heads="]),
        ("hydra/launcher=ra", ["hydra/launcher=ray"]),
        ("top_k.", []),
        ("no_such.", []),
        ("--mul", ["--multirun"]),
    ],
)
def test_what_begins_with_the_word(line, some):
    assert after(line) == some


def test_settings_are_those_of_the_file_that_is_chosen():
    lags = set(after("compressor=lag_kv compressor.")) | set(after("compressor=snapkv compressor."))
    levels = "compressor=lag_kv compressor@levels.low.compressor=snapkv levels.{}.compressor."
    low, high = (after(levels.format(name)) for name in ("low", "high"))
    assert low and high and low != high and len(lags) == len({*low, *high})


def test_ones_own_methods_are_proposed(tmp_path):
    (tmp_path / "compressor").mkdir()
    (tmp_path / "compressor" / "tomato.yaml").write_text("_target_: mine.Tomato\nseeds: 3\n")
    assert after("compressor=tom", str(tmp_path)) == ["compressor=tomato", "compressor=tome"]
    assert after(f"--config-dir {tmp_path} compressor=toma") == ["compressor=tomato"]
    assert after("compressor=tomato compressor.", str(tmp_path)) == ["compressor.seeds="]


def test_the_shell_is_answered_without_hydra_or_torch():
    line = "x2l compressor=tom levels.high"
    code = (
        "import sys; sys.argv = ['x2l', '-sc', 'query=bash']\nfrom x2l.cli.start import main; main()\n"
        "assert not {'hydra', 'omegaconf', 'numpy', 'torch'} & sys.modules.keys()"
    )
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": "18"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "compressor=tome\n"
