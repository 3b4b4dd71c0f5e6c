import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from x2l.runs.pasted import setting, word

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
ODD = st.text(st.sampled_from("\\'\"=[]{},() ab1.数"), min_size=1, max_size=12)


@given(NAMES | ODD | st.sampled_from(["null", "1e3", "true", "a b=[1]", "it's", "\\'", "c:\\"]))
def test_a_pasted_setting_reaches_hydra_as_it_was(name):
    if "${" in name or name != name.strip("\n"):
        return
    (text,) = shlex.split(setting("a.b", name))
    (override,) = OverridesParser.create().parse_overrides([text])
    assert override.key_or_group == "a.b" and str(override.value()) == name


def test_a_path_is_one_word_and_no_option():
    assert shlex.split(f"ls {word('-a b')}") == ["ls", "./-a b"]
