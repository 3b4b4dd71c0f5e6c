"""What measures kept frames runs, and finds one file of what was sampled."""

import json

from experiments.speed import frame_cache


def test_it_measures_and_writes(tmp_path):
    frame_cache.main(["--frames", "9", "--apart", "2", "--repeats", "1", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "frame_cache.json").read_text())["rows"]
    assert min(row["decoding"], row["keeping"], row["reading"]) > 0
    pixels = 9 * 640 * 360 * 3
    assert pixels < row["kept_bytes"] < pixels + 4000
