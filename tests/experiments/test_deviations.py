"""The page of methods says how far they are from their authors' code, as it was measured last."""

import json

import torch

from experiments.docs.deviations import d2o, together, tome_groups
from experiments.docs.methods_table import DEVIATING, DEVIATIONS, TARGET
from x2l.compressors.merging import matching
from x2l.kv import LayerKV


def test_the_page_shows_what_was_measured():
    assert DEVIATIONS.format(**json.loads(DEVIATING.read_text())) in TARGET.read_text()


def test_sets_and_heads_are_all_that_tells_the_rules_of_tome_apart():
    """Of one head, in reverse order (so that even places are odd ones), both merge the same pairs."""
    keys = torch.randn(1, 24, 6, generator=torch.Generator().manual_seed(3))
    for remove in (1, 5, 12):
        here = together(matching(keys.flip(1), remove))
        assert torch.equal(here.flip(0, 1).T, together(tome_groups(keys, remove)))
    two = torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(
        together(matching(two.flip(1), 12)).flip(0, 1).T, together(tome_groups(two, 12))
    )


def test_rules_of_d2o_agree_where_nothing_is_to_be_told_apart():
    """Heads that are alike recall the same; then only the weights of the mean differ."""
    keys = torch.randn(1, 1, 16, 4, generator=torch.Generator().manual_seed(5)).expand(1, 2, -1, -1)
    kv = LayerKV(keys, keys, torch.arange(16.0).expand(1, 1, -1), torch.ones(1, 16))
    share, difference = d2o(kv, 8)
    assert share == 0 < difference < 1
