import pytest

from x2l.benchmarks.option_text import INSTRUCTION, bracketed, dotted, letters, vnbench_prompt


def test_letters_run_from_a_and_refuse_a_single_option():
    assert letters(4) == "ABCD"
    with pytest.raises(ValueError, match="count=1"):
        letters(1)


def test_one_line_for_each_option():
    assert dotted(("red", "blue")) == "A. red\nB. blue"
    assert bracketed(("red", "blue", "green")) == "(A) red\n(B) blue\n(C) green"


def test_prompt_is_vnbenchs():
    prompt = vnbench_prompt("What?", ("red", "blue"))
    assert prompt == f"What?\nA. red\nB. blue\n{INSTRUCTION}"
