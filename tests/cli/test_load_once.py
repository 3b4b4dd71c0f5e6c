"""Consecutive jobs of one process share the model they load; two are never in memory."""

import gc
import shutil
import weakref

import pytest
from omegaconf import OmegaConf

from x2l.cli import compose
from x2l.evaluation.settings import ConfigError
from x2l.models.checkpoint import PACKAGED
from x2l.selectors.controls import SelectNone
from x2l.selectors.keys import KeysSelector
from x2l.selectors.mem_index import MemIndexSelector
from x2l.selectors.shallow_votes import ShallowVotesSelector

MADE = []


class Model:
    def __init__(self, name_or_path, dtype="float32", check_shape=None):
        assert not any(one() is not None for one in MADE), "the old one is still there"
        self.name = name_or_path
        self.itself = self  # as modules do: only the garbage collector finds it
        MADE.append(weakref.ref(self))


@pytest.fixture(autouse=True)
def none_yet(monkeypatch):
    monkeypatch.setattr(compose, "_model", {})
    MADE.clear()


def load(name, **values):
    node = {"_target_": f"{__name__}.Model", "name_or_path": str(name), **values}
    return compose.load_model(OmegaConf.create(node), {})


def test_the_same_configuration_is_loaded_once(tmp_path):
    first = load(tmp_path)
    assert load(tmp_path) is first and len(MADE) == 1


def test_the_old_model_is_gone_before_another_is_loaded(tmp_path):
    gc.disable()
    try:
        load(tmp_path)
        load(tmp_path, dtype="bfloat16")
    finally:
        gc.enable()
    assert [one() is None for one in MADE] == [True, False]


def test_other_weights_under_the_same_name_are_loaded_anew(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"2")
    load(tmp_path)
    assert len(MADE) == 2


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (KeysSelector(((0, 3), (99, 0))), r"selector\.keys\.heads: \[99, 0\] is beyond this model"),
        (ShallowVotesSelector(layers=99), r"selector\.shallow_votes\.layers=99: must be at most"),
        (MemIndexSelector((99,)), r"selector\.mem_index\.layers: 99 is beyond this model"),
    ],
)
def test_what_the_model_lacks_is_said_before_its_weights_are_read(tmp_path, selector, message):
    folder = tmp_path / "model"
    shutil.copytree(PACKAGED["x2l_tiny"], folder)
    (folder / "model.safetensors").unlink()
    node = OmegaConf.create({"_target_": "x2l.models.loading.load", "name_or_path": str(folder)})
    with pytest.raises(ConfigError, match=message):
        compose.load_model(node, {"none": SelectNone(), "x": selector})
    with pytest.raises(ConfigError, match="weights|safetensors"):
        compose.load_model(node, {"none": SelectNone()})
