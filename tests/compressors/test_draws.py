"""What is drawn at random is the same everywhere."""

import torch

from x2l.compressors.draws import seed_of, seeded


def test_seeds_are_those_of_every_process_and_version():
    """Fixed once and for all; `hash` of a tuple would be CPython's own affair."""
    assert seed_of() == 64089176690719772
    assert seed_of(0, "clips/a.mp4") == 37535599541438330
    assert seed_of(7, 3, 2) == 5292992330373412


def test_equal_parts_draw_equal_numbers_and_others_do_not():
    assert torch.equal(torch.rand(9, generator=seeded(1, 2)), torch.rand(9, generator=seeded(1, 2)))
    for other in ((2, 1), (1, 2, 0), (12,), ("1", 3)):
        assert not torch.equal(
            torch.rand(9, generator=seeded(1, 2)), torch.rand(9, generator=seeded(*other))
        )
