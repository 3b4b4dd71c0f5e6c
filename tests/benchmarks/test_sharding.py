"""Shards end together, whatever a video's cost is to its length."""

import numpy as np
import pytest

from x2l.benchmarks.sharding import shards

DRAW = np.random.default_rng(0)
# As the sets describe themselves: 900 videos of 11 s to an hour; 3 min to 2 h, mean 15 min; half an hour to 140 min.
SETS = {
    "videomme": DRAW.permutation(
        np.concatenate([DRAW.uniform(*ends, 300) for ends in ((11, 120), (240, 900), (1800, 3600))])
    ),
    "mlvu": np.clip(DRAW.lognormal(6.4, 0.8, 1122), 180, 7200),
    "lvbench": DRAW.uniform(1800, 8400, 103),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("frames", [64, 1024, 10**6])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_workers_end_within_a_tenth(name, frames, count):
    seconds = SETS[name]
    of_video = np.array(shards(list(seconds), count))
    cost = np.minimum(seconds, frames)
    loads = np.array([cost[of_video == worker].sum() for worker in range(count)])
    assert loads.max() <= 1.1 * loads.min()


def test_every_video_is_in_one_shard_and_shards_are_as_large():
    for known in ([5.0, None, 3.0, 9.0, None], [None] * 5, []):
        of_video = shards(known, 2)
        sizes = [of_video.count(worker) for worker in (0, 1)]
        assert sum(sizes) == len(known) and abs(sizes[0] - sizes[1]) <= 1
    assert shards([None] * 5, 2) == [0, 1, 0, 1, 0]
    assert shards([1, 9, 5, 3], 2) == [0, 0, 1, 1]
