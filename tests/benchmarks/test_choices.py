import pytest

from x2l.benchmarks.choices import INSTRUCTION, extract_letter, letters, vnbench_prompt


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B) the red one", "B"),
        ("B: red", "B"),
        ("(B) red, not (A) green", "B"),
        ("B. A red star", "B"),
        ("**B**", "B"),
        ("The answer is B", "B"),
        ("The answer is B.", "B"),
        ("Answer: (B)", "B"),
        ("Option B is right, B it is", "B"),
    ],
)
def test_reads_the_letter_that_is_named(text, letter):
    assert extract_letter(text, 4) == letter


@pytest.mark.parametrize(
    "text", ["", "  \n", "red", "A or B", "None of them", "b", "BAD", "E", "5"]
)
def test_names_nothing_where_no_single_option_is_named(text):
    assert extract_letter(text, 4) is None


def test_options_end_where_the_choices_end():
    assert extract_letter("E", 5) == "E"
    assert extract_letter("C", 2) is None


def test_letters_run_from_a_and_refuse_a_single_option():
    assert letters(4) == "ABCD"
    with pytest.raises(ValueError, match="count=1"):
        letters(1)


def test_prompt_is_vnbenchs():
    prompt = vnbench_prompt("What?", ("red", "blue"))
    assert prompt == f"What?\nA. red\nB. blue\n{INSTRUCTION}"
