"""Consecutive jobs of one process share the model they load; two are never in memory."""

import gc
import weakref

import pytest
from omegaconf import OmegaConf

from x2l.cli import compose

MADE = []


class Model:
    def __init__(self, name_or_path, dtype="float32"):
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
    return compose.load_model(OmegaConf.create(node))


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
