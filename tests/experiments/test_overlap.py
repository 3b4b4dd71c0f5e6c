"""What measures how decoding and computing overlap runs, and writes what it found."""

import json

import pytest

from experiments.speed import overlap


@pytest.mark.slow
def test_all_three_figures_are_written(tmp_path):
    overlap.main(["--videos", "2", "--frames", "16", "--repeats", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "overlap.json").read_text())
    (row,) = found["rows"]
    assert min(row["decoding"], row["computing"], row["run"]) > 0 and found["apart"] >= 1
    assert row["run / larger"] == row["run"] / max(row["decoding"], row["computing"])
    assert found["run / larger"] == row["run / larger"]
