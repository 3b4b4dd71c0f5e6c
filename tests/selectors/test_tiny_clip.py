"""The retriever that is in the package: small, an ordinary CLIP folder, and it finds what is asked for."""

import pytest
import torch

from x2l.benchmarks.needle.benchmark import Needle
from x2l.selectors.dual_encoder import PACKAGED, TwoTowers
from x2l.video import read_frames

FOLDER = PACKAGED["x2l_tiny_clip"]


@pytest.fixture(scope="module")
def clip_towers():
    return TwoTowers.load("x2l_tiny_clip", "cpu", "float32", None, 32)


def test_the_folder_is_small_and_complete():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1 << 20
    assert {"model.safetensors", "config.json", "README.md"} <= {p.name for p in FOLDER.iterdir()}


@pytest.mark.parametrize("scene", ["plain", "crowded"])
def test_frames_that_show_an_asked_shape_are_nearer_than_others(clip_towers, scene, tmp_path):
    benchmark = Needle(
        str(tmp_path), split="train", videos=1, seconds=64, fps=1.0, scene=scene, in_view=2
    )
    benchmark.prepare()
    samples = benchmark.samples()
    pictures = clip_towers.pictures(read_frames(samples[0].video, None, 1.0).pixels)
    inside, outside = [], []
    for sample in samples:
        scores = pictures @ clip_towers.text(" ".join([sample.question, *sample.choices]))
        shown = torch.zeros(len(scores), dtype=torch.bool)
        for start, end in sample.spans:
            shown[int(start) : int(end)] = True
        inside.append(scores[shown].mean())
        outside.append(scores[~shown].mean())
    nearer = torch.stack(inside) - torch.stack(outside)
    assert nearer.min() > 0 and nearer.mean() > 0.1
