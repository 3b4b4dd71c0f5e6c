"""Which text belongs to which time step."""

import pytest
import torch

from x2l.models.time_steps import step_starts

V = 9  # a visual token


def starts(ids, counts, region, follows=False):
    return step_starts(ids, torch.tensor(ids) == V, counts, region, follows)


def test_without_text_steps_follow_each_other():
    assert starts([1, 2, V, V, V, V, 3], (2, 2), (2, 6)) == (2, 4)


def test_a_label_before_a_step_is_the_steps_own():
    # 1 | 5 (time) 7 (opens) V 8 (closes) | 6 7 V 8 | 3
    assert starts([1, 5, 7, V, 8, 6, 7, V, 8, 3], (1, 1), (1, 9)) == (1, 5)


def test_a_label_behind_a_step_is_the_steps_own():
    assert starts([1, 7, V, 8, 5, 7, V, 8, 6, 3], (1, 1), (1, 9), follows=True) == (1, 5)


def test_an_introduction_before_the_first_label_is_no_part_of_the_first_step():
    # 20 21 is said once; 4 begins every label
    assert starts([1, 20, 21, 4, 5, V, 8, 4, 6, V, 8], (1, 1), (1, 11)) == (3, 7)


def test_steps_may_differ_in_their_number_of_tokens():
    assert starts([4, V, V, V, 4, V, 4, V, V], (3, 1, 2), (0, 9)) == (0, 4, 6)


def test_one_step_takes_the_whole_region():
    assert starts([1, 5, V, V, 8, 3], (2,), (1, 5)) == (1,)


def test_counts_that_do_not_add_up_are_refused():
    with pytest.raises(RuntimeError, match="3 visual tokens in the prompt, but its video has 4"):
        starts([V, V, V], (2, 2), (0, 3))
