"""Unknown keys, values of a wrong type and groups that are none are refused by name, before anything is built."""

import subprocess
import sys

import pytest

from x2l import UserError
from x2l.cli.compose import build_benchmark, composed, engine

# override -> what is said
REFUSED = {
    "+compresor=uniform": "compresor: there is no such setting; did you mean compressor?",
    "compresor=uniform": "compresor: there is no such setting; did you mean compressor?",
    "++video.frame=4": "video.frame: there is no such setting; did you mean frames?",
    "video.frame=4": "video.frame: there is no such setting; did you mean video.frames?",
    "+prefill.cach=x": "prefill.cach: there is no such setting; did you mean cache?",
    "+model.dtpye=float16": "model.dtpye: there is no such setting; did you mean dtype?",
    "+benchmark.video=2": "benchmark.video: there is no such setting; did you mean videos?",
    "+levels.low.compressor.proportion=1": "did you mean proportional?",
    "+selector.keys.layer=1": "selector.keys.layer: there is no such setting; there are calibration",
    "selector.retriever.pool=max": "selector retriever is not chosen; add it: selector=.none,retriever.",
    "+nonsense=1": "nonsense: there is no such setting; there are ",
    "model.device=0": "model.device=0: must be text or null",
    "model.trust_remote_code=maybe": "model.trust_remote_code=maybe: must be true or false",
    "control.holds_equal=maybe": "control.holds_equal=maybe: must be one of kv_bytes, flops, or null",
    "control.holds_equal=1": "control.holds_equal=1: must be text or null",
    "benchmark.circular=no": "benchmark.circular=no: must be true or false",
    "levels.high.codec=int8": "levels.high.codec=int8: .*write codec@levels.high.codec=NAME",
    "levels.high.compressor=tome": "write compressor@levels.high.compressor=NAME",
    "levels.low.compressor.proportional=1": "levels.low.compressor.proportional=1: must be true or false",
    "levels.low.layers=true": "levels.low.layers=true: must be null",
    "levels=null": "levels=null: must be several settings",
    "video=null": "video=null: must name a file of conf/video: default",
    "selector.keys=null": "selector.keys=null: must be the settings of a class",
    "benchmark._target_=x2l.nowhere.None": "benchmark._target_=x2l.nowhere.None: cannot be found",
    "~tracker": "tracker=null: must be several settings; choose one of conf/tracker",
    "selection.top_k_by_task=[1]": "selection.top_k_by_task=",
    "top_k=true": "top_k=true: must be a whole number or text or a list",
    "seed=-1": "seed=-1: must be a whole number of at least 0",
}  # fmt: skip


def test_what_cannot_be_meant_is_refused_in_one_line():
    with pytest.raises(UserError, match="selector.keys.rope=null: must be true or false"):
        engine(["selector=keys", "selector.keys.rope=null"])
    for override, said in REFUSED.items():
        with pytest.raises(UserError, match=said.replace("+", r"\+")) as caught:
            engine([override])
            build_benchmark(composed([override]))
        assert "\n" not in str(caught.value), override
        assert "append" not in str(caught.value), override  # Hydra advises a `+`


@pytest.mark.parametrize(
    ("selector", "override", "message"),
    [
        ("retrieval_heads", "null_question=true", "null_question=true: must be text or null"),
        ("mem_index", "keys=x", "keys=x: must be a whole number"),
        ("retriever", "device=word", "device='word': must be cpu, cuda, cuda:1, ..., or null for"),
    ],
)
def test_settings_that_a_function_hands_on_to_its_class_are_of_the_classs_types(
    selector, override, message
):
    with pytest.raises(UserError, match=message):
        engine([f"selector={selector}", f"selector.{selector}.{override}"])


def test_an_error_of_a_selector_calls_it_by_the_name_that_it_has_here():
    words = ["selector=[keys,languagebind]", "selector.languagebind.pool=median"]
    with pytest.raises(UserError, match=r"^selector\.languagebind\.pool='median': must be one of"):
        engine(words)


def test_what_is_meant_is_taken():
    engine(["+levels.mid={ratio:8,layers:[1,2,3]}", "+compressor@levels.mid.compressor=kmeans"])
    engine(["codec=int8"])
    engine(["levels.high.codec=null", "top_k=[1,2]", "model.device_map=null"])


def test_a_users_own_hydra_goes_on(tmp_path):
    """In a process of its own: an application of Hydra that asks x2l for a configuration, and goes on."""
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    (tmp_path / "app.py").write_text(
        "import hydra\n"
        "from hydra.core.global_hydra import GlobalHydra\n"
        "@hydra.main(version_base='1.2', config_path='.', config_name='mine')\n"
        "def main(config):\n"
        "    from x2l.cli.compose import composed\n"
        "    before = GlobalHydra.instance().hydra\n"
        "    assert composed(['top_k=3']).top_k == 3\n"
        "    assert GlobalHydra.instance().hydra is before\n"
        "    assert str(hydra.version.getbase()) == '1.2'\n"
        "    print('a is', config.a)\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "app.py", "a=2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "a is 2\n"), done.stderr
