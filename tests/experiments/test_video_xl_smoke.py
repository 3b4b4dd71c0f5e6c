"""The script for users with Video-XL's weights, on the tiny ones."""

from experiments.paper import video_xl
from tests.video_xl import checkpoint, frames
from x2l.video import write_video


def test_it_counts_the_kvs_that_the_official_code_would_hold():
    """Of 256 frames, as they follow from the official code's literals."""
    counts = [
        video_xl.official_kvs(256, selected, edges, 144)
        for selected, edges in (((), False), (range(26), False), ((), True), ((4, 9, 11), True))
    ]
    assert counts == [1152, 18432, 2232, 4257]


def test_it_runs_and_finds_them(tmp_path, capsys):
    folder = checkpoint(tmp_path / "model")
    write_video(tmp_path / "clip.mp4", frames(40).pixels.numpy(), fps=1)
    words = [str(tmp_path / "clip.mp4"), "What?", "--model", str(folder), "--device", "cpu"]
    words += ["--dtype", "float32", "--frames", "40", "--chunks", "1,9", "--max-new-tokens", "2"]
    assert video_xl.main(words) == 0
    out = capsys.readouterr().out
    assert "4 chunks" in out and out.count("official") == 6
    for line in (
        "all-high     20 KVs",
        "all-low     320 KVs",
        "mixed        95 KVs",
        "mixed       245 KVs",
    ):
        assert line in out, out
