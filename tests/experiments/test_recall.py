"""The table of selectors, on the fewest videos that make one."""

import json

import pytest

from experiments.selection.recall import SELECTORS, main
from x2l.cli.compose import composed


@pytest.mark.slow
def test_the_table_of_two_selectors(tmp_path, capsys):
    heads = tmp_path / "heads.json"
    heads.write_text(
        json.dumps(
            {
                "format": 1,
                "model": "x2l_tiny",
                "checkpoint": None,
                "layers": 6,
                "heads": 4,
                "found_on": "needle/train",
                "scores": {"keys": {"best": 1, "of_heads": [[0, 0, 0, 1], *[[0] * 4] * 5]}},
            }
        )
    )
    few = [
        "benchmark.videos=2",
        "benchmark.seconds=32",
        "video.frames=32",
        f"paths.data={tmp_path}",
    ]
    only = ["--only", "ground-truth chunks", "keys, calibrated, resident"]
    main([*few, "--heads", str(heads), "--out", str(tmp_path / "rows.json"), *only])
    truth, keys = json.loads((tmp_path / "rows.json").read_text())
    assert truth["role"] == "bound" and truth["flops"] == 0
    assert truth["recall@4"] == 1 and keys["recall@4"] > 0.9 and keys["flops"] > 0
    assert keys["bytes_resident"] > 0 == keys["bytes_streamed"]
    assert capsys.readouterr().out.count("\n|") == 3


@pytest.mark.parametrize("name", SELECTORS)
def test_every_row_composes(name):
    assert composed([override.replace("HEADS", "heads.json") for override in SELECTORS[name]])
