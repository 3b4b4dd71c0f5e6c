"""What measures a GPU runs on the CPU, on x2l_tiny."""

import json

import pytest
import torch

from experiments.speed import gpu
from experiments.speed.gpu import HIGH, STOCK, TWO, WHOLE, fitting

pytestmark = pytest.mark.filterwarnings("ignore:.*lengths of the input.*")


@pytest.mark.slow
def test_all_of_it_on_the_cpu(tmp_path, capsys):
    options = ["--size", "64", "64", "--new-tokens", "3", "--out", str(tmp_path)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu.main(["model=x2l_tiny", f"model.device={device}", "--frames", "16", "24", *options])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [(check["model"], check["dtype"]) for check in found["parity"]] == [
        ("x2l_tiny", "float32"), ("x2l_tiny", "float64"), ("x2l_tiny", "float32"),
    ]  # fmt: skip
    for check, limit in zip(found["parity"], (1e-5, 1e-9, 1e-5), strict=True):
        assert check["largest_difference"] < limit * check["largest_logit"]
        assert check["greedy_tokens_equal"]
    assert [(row["frames"], row["way"]) for row in found["rows"]] == [
        (count, way) for count in (16, 24) for way in (WHOLE, TWO, HIGH, STOCK)
    ]
    for row in found["rows"]:
        assert "failed" not in row and gpu.video_seconds(row) > 0
        if row["way"] == TWO:
            copied = row["reload"]
            # 64 visual tokens for 8 frames, half of them L-KVs: 6 layers, 4 KV heads of 32, fp32
            assert copied["bytes"] > row["frames"] * 8 / 2 * (6 * 2 * 4 * 32 * 4)
            rate = copied["bytes"] / 1e9 / copied["reload_seconds"]
            assert copied["reload_gb_per_second"] == rate > 0 < copied["copy_gb_per_second"]
    assert not found["left_out"] and set(found["frames_that_fit"]) == {WHOLE, TWO, HIGH, STOCK}
    assert (tmp_path / "gpu.png").stat().st_size > 10_000
    assert "frames until 80 GB" in capsys.readouterr().out


@pytest.mark.slow
def test_no_more_frames_are_begun_when_the_time_is_up(tmp_path):
    options = ["--frames", "16", "--minutes", "0", "--out", str(tmp_path)]
    gpu.main(["model=x2l_tiny", *options])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left_out"] == [16] and found["rows"] == []


def test_frames_that_fit_lie_on_the_line_through_the_last_two_peaks():
    def row(way, frames, peak):
        return {"way": way, "frames": frames, "peak_bytes": peak}

    rows = [row(WHOLE, 1, 9e9), row(WHOLE, 10, 2e9), row(WHOLE, 20, 4e9), row(TWO, 10, 1e9)]
    rows += [
        row(HIGH, 10, 3e9),
        row(HIGH, 20, 3e9),
        {"way": STOCK, "frames": 10, "failed": "out of memory"},
    ]
    assert fitting(rows, 80e9) == {WHOLE: 400, TWO: None, HIGH: None, STOCK: None}
