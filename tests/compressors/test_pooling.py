"""Which tokens pooling puts together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compressors.folders import HEADS, chunk, obs
from x2l.compressors.grid_pooling import FirstAndChanges, GridPool, boxes, plane
from x2l.compressors.pooling import ORDERS, MaxNormPool, MeanPool, cube_order, time_order

GRID = (4, 4, 6)
small = st.integers(1, 7)


def blocks(kv, step, row, column):
    """Means of boxes of that size that divide the grid, in the grid's order."""
    steps, rows, columns = GRID
    cut = kv.keys.view(
        1, HEADS, steps // step, step, rows // row, row, columns // column, column, -1
    )
    return cut.mean(dim=(3, 5, 7)).flatten(2, 4)


def alike(got, want):
    """The same KVs in any order."""
    return torch.allclose(got.flatten(2).sort().values, want.flatten(2).sort().values, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "ratio", "box"),
    [
        (MeanPool(over="space"), 2, (1, 1, 2)),
        (MeanPool(over="space"), 4, (1, 2, 2)),
        (MeanPool(over="time"), 2, (2, 1, 1)),
        (MeanPool(over="time"), 4, (4, 1, 1)),
        (MeanPool(over="space_time"), 2, (1, 1, 2)),
        (MeanPool(over="space_time"), 8, (2, 2, 2)),
        (MeanPool(over="rows"), 3, (1, 1, 3)),
        (MeanPool(over="rows"), 6, (1, 1, 6)),
        (GridPool(), 2, (1, 1, 2)),
        (GridPool(), 4, (1, 2, 2)),
        (GridPool(), 6, (1, 2, 3)),
        (GridPool(), 24, (1, 4, 6)),
        (GridPool(), 96, (4, 4, 6)),
        (GridPool(steps=2), 8, (2, 2, 2)),
        (GridPool(steps=4), 16, (4, 2, 2)),
        (GridPool(steps=2), 1.5, None),
    ],
    ids=lambda value: str(value),
)
def test_ratios_that_divide_the_grid_pool_its_boxes(method, ratio, box):
    kv = chunk(GRID)
    keep = int(kv.tokens / ratio)
    got = method.compress(kv, obs(GRID), keep)
    assert got.tokens == keep and (got.weights == 1).all()
    if box is not None:
        assert alike(got.keys, blocks(kv, *box))


@given(grid=st.tuples(small, small, small), part=st.floats(0, 1), steps=st.integers(1, 8))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_boxes_are_boxes_and_fill_the_grid(grid, part, steps):
    tokens = grid[0] * grid[1] * grid[2]
    keep = 1 + int(part * (tokens - 1))
    group = boxes(grid, keep, steps).view(grid)
    assert sorted(set(group.flatten().tolist())) == list(range(keep))
    reach = []
    for index in range(keep):
        at = (group == index).nonzero()
        sides = at.amax(0) - at.amin(0) + 1
        assert int(sides.prod()) == len(at)  # nothing is missing inside
        reach.append(int(sides[0]))
    if keep >= -(-grid[0] // steps):
        assert max(reach) <= steps
    sizes = group.flatten().bincount()
    assert sizes.max() <= 8 * sizes.min() + 8  # strided, not lopsided


def test_windows_of_a_plane_are_near_to_squares():
    for windows in range(1, 25):
        cut = plane(4, 6, windows)
        sides = []
        for index in range(windows):
            at = (cut == index).nonzero()
            sides.append((at.amax(0) - at.amin(0) + 1).tolist())
        assert len(sides) == windows
        assert sum(max(side) / min(side) for side in sides) / windows <= 2


@pytest.mark.parametrize("over", ORDERS)
def test_orders_are_permutations(over):
    for grid in ((1, 1, 2), (4, 4, 6), (3, 5, 7), (2, 12, 12), (1, 3, 5)):
        order = ORDERS[over](grid)
        assert sorted(order.tolist()) == list(range(grid[0] * grid[1] * grid[2]))


def test_time_order_goes_to_and_fro():
    """Neighbours in it are one step apart in time at one place, or at the same time at two places."""
    steps, places = (4, 6), 24
    order = time_order((4, 4, 6))
    time, place = order // places, order % places
    assert ((time.diff().abs() == 1) | (place.diff() != 0)).all()
    assert (time.diff()[place.diff() != 0] == 0).all()
    assert (place.view(places, steps[0]) == place.view(places, steps[0])[:, :1]).all()


def test_cubes_are_compact():
    order = cube_order((4, 4, 4)).view(8, 8)
    at = torch.stack([order // 16, order // 4 % 4, order % 4], dim=-1)
    assert (at.amax(1) - at.amin(1) == 1).all()


@pytest.mark.parametrize("of", ["keys", "values"])
def test_max_norm_picks_the_longest_of_each_patch(of):
    kv = chunk(GRID)
    got = MaxNormPool(of=of).compress(kv, obs(GRID), 24)
    norms = getattr(kv, of)[0].norm(dim=-1).view(HEADS, 4, 2, 2, 3, 2)
    want = norms.amax(dim=(3, 5)).flatten(1)
    mine = getattr(got, of)[0].norm(dim=-1)
    assert torch.allclose(mine.sort().values, want.sort().values)
    assert {tuple(row) for row in got.keys[0, 0].tolist()} <= {
        tuple(row) for row in kv.keys[0, 0].tolist()
    }


def changing(places):
    """A chunk whose steps repeat but for some places of step 2, head by head."""
    kv = chunk(GRID)
    keys = kv.keys.unflatten(2, (4, 24)).clone()
    keys[:, :, 1:] = keys[:, :, :1]
    for head, mine in enumerate(places):
        keys[:, head, 2, mine] = torch.randn(len(mine), 8, generator=torch.manual_seed(head))
    kv = type(kv)(keys.flatten(2, 3), kv.values, kv.positions, kv.weights)
    return kv


def test_the_first_step_is_kept_and_what_changes_after_it():
    places = [[3, 7, 11], [0, 20, 23]]
    kv = changing(places)
    out = FirstAndChanges(share=0.8).compress(kv, obs(GRID), 30)
    assert torch.equal(out.keys[:, :, :24], kv.keys[:, :, :24])  # 24 places, 0.8 * 30
    time = out.positions[0] - 7
    for head, mine in enumerate(places):
        changed = out.positions[:, head, 24:][:, time[head, 24:] == 2] - 7
        spots = (changed[1] * 6 + changed[2]).long().tolist()
        assert sorted(spots) == mine  # and their end in step 3, when they change back
        assert (time[head, 24:] > 1).all()


def test_a_first_step_beyond_its_share_is_pooled():
    kv = changing([[3], [5]])
    out = FirstAndChanges(share=0.5).compress(kv, obs(GRID), 8)
    time = out.positions[0] - 7
    assert ((time == 0).sum(-1) == 4).all() and (out.weights == 1).all()
    windows = plane(4, 6, 4).flatten()
    want = torch.stack([kv.values[:, :, :24][:, :, windows == n].mean(2) for n in range(4)], dim=2)
    assert torch.allclose(out.values[:, :, :4], want, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MeanPool(over="frames"), r"over='frames': must be one of \['rows', 'space',"),
        (lambda: MaxNormPool(over="x"), "over='x': must be one of"),
        (lambda: MaxNormPool(of="queries"), "of='queries': must be 'keys' or 'values'"),
        (lambda: GridPool(steps=0), "steps=0: must be a number of time steps >= 1"),
        (lambda: FirstAndChanges(share=0), r"share=0: must be in \(0, 1\]"),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
