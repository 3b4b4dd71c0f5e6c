"""What a pre-fill follows from: whatever changes, the address changes with it; what does not matter, does not."""

import importlib
import shutil
import sys
from collections import defaultdict
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compressors import folders, pruners
from tests.compressors.test_compressors import EVERY
from tests.tiny import build, frames, ours, processor
from x2l.compressors.base import Compressor, Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_attention import Compactor
from x2l.compressors.pruning_by_keys import KeyNorm, Streaming
from x2l.compressors.pruning_controls import RandomPruning
from x2l.compressors.quantisation import Quantised
from x2l.engine.disk_cache.key import Unaddressable, address, code_digest, draws, pixels_digest
from x2l.engine.disk_cache.source_hash import PACKAGE, engine_digest
from x2l.engine.shown_chunks import chunk_pixels
from x2l.evaluation.settings import Settings
from x2l.models.fingerprint import UntoldWeights, bit_sums, fingerprint, weights_digest
from x2l.models.huggingface import HFVideoModel

LEVELS = {"low": Level(ToMe(), 2), "high": Level(Streaming(), 8, Quantised(8), "pyramid")}
SETTINGS = {"context": "full", "positions": "keep"}


@lru_cache
def prompt(family="qwen2_5_vl"):
    return ours(family).prompt(frames(14), 4)


def hashed(one):
    """The pixels of a prompt, as a run hashes them."""
    return pixels_digest(pixels for _, pixels in chunk_pixels(one))


def at(levels=LEVELS, settings=SETTINGS, seed=0, model="a", code="b", **changes):
    pixels = hashed(prompt())
    return address(model, code, replace(prompt(), **changes), levels, settings, seed, pixels)


def changed(value):
    """Other values of the same kind, each a little different."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1]
    if isinstance(value, str):
        return [value + "x"]
    if isinstance(value, torch.Tensor):
        other = value.clone().view(-1)
        other[-1] = ~other[-1] if other.dtype == torch.bool else other[-1] + 1
        return [other.view(value.shape), value[..., :-1]]
    if isinstance(value, dict):
        return [{**value, key: other} for key, one in value.items() for other in changed(one)] + [
            {}
        ]
    if isinstance(value, tuple):
        inside = [
            (*value[:i], other, *value[i + 1 :])
            for i, one in enumerate(value[:2])
            for other in changed(one)
        ]
        return [*inside, value[:-1]]
    if is_dataclass(value):
        names = [f.name for f in fields(value) if f.name not in ("path", "reader")]
        return [
            replaced(value, **{name: other})
            for name in names
            for other in changed(getattr(value, name))
        ]
    return [] if value is None else [None]


def replaced(value, **change):
    """Like `dataclasses.replace`, and also what a check of its own would refuse."""
    other = object.__new__(type(value))
    for f in fields(value):
        object.__setattr__(other, f.name, change.get(f.name, getattr(value, f.name)))
    return other


def all_differ(addresses):
    return len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_every_field_of_the_prompt_counts_pixels_and_times_included(family):
    """Fields are found, not listed: one that is added later counts, or this fails."""
    whole = prompt(family)
    others = changed(whole)
    assert len(others) > 30
    shots = whole.visual["frames"].pixels
    pixels = [one.visual["frames"].pixels for one in others if one.visual.get("frames")]
    assert any(one.shape == shots.shape and (one != shots).sum() == 1 for one in pixels)

    def addressed(one):
        pixels = hashed(replace(whole, visual=one.visual)) if one.visual.get("frames") else ""
        return address("a", "b", one, LEVELS, SETTINGS, 0, pixels)

    found = [addressed(one) for one in (whole, *others)]
    assert all_differ(found)
    shots = replace(whole.visual["frames"], path="moved.mp4", reader="decord")
    same = replace(whole, visual={**whole.visual, "frames": shots})
    assert addressed(same) == found[0]
    recut = replace(whole, chunks=ours(family).prompt(shots, 6).chunks)
    assert hashed(recut) == hashed(whole)


def test_every_part_of_the_levels_counts():
    found = [at(), *(at(levels) for levels in changed(LEVELS))]
    named = {"low": LEVELS["low"], "mid": LEVELS["high"]}
    swapped = {"low": LEVELS["high"], "high": LEVELS["low"]}
    other_class = {**LEVELS, "low": Level(KeyNorm(), 2)}
    more = {**LEVELS, "mid": Level(ToMe(), 4)}
    found += [at(levels) for levels in (named, swapped, other_class, more)]
    assert len(found) > 12 and all_differ(found)
    assert at({**LEVELS, "low": Level(ToMe(), 2.0)}) == at()  # the same ratio


def test_model_code_and_settings_count():
    found = [at(), at(model="c"), at(code="c"), *(at(settings=s) for s in changed(SETTINGS))]
    assert all_differ(found)


def test_every_prefill_setting_of_a_run_is_told_or_is_in_the_prompt():
    """A field added to `Settings` must be looked at: does it shape KVs?"""
    told = {"context", "positions"}
    in_model_or_prompt = {
        "model",
        "dtype",
        "frames",
        "fps",
        "chunk_frames",
        "model_positions",
        "device",
        "reader",
    }
    in_levels = {"levels"}
    as_seed = {"seed"}
    after_the_prefill = {
        "run_id", "selectors", "top_k", "pinned", "max_new_tokens", "limit", "seconds", "benchmark", "split",
        "top_k_by_task", "tuned_on", "control", "taking", "prefill_cache", "prefill_cache_gb",
        "video_cache", "video_cache_gb",
        "batch",
    }  # fmt: skip
    known = told | in_model_or_prompt | in_levels | as_seed | after_the_prefill
    assert {f.name for f in fields(Settings)} == known


def test_the_seed_counts_where_a_compressor_draws():
    random = {"low": Level(ToMe(), 2), "high": Level(RandomPruning(), 8)}
    assert at(random, seed=0) != at(random, seed=1)
    assert at(seed=0) == at(seed=1)
    inside = {"low": Level(folders.COMPOSED[0].__class__(RandomPruning()), 2)}
    assert draws(inside) and not draws(LEVELS)
    assert draws({"low": Level(Own(), 2)})  # not x2l's: it might


def kept(method, seed):
    kv, obs = pruners.chunk((2, 3, 4))
    return method.compress(kv, replace(obs, video_seed=seed), 8)


def test_who_does_not_say_that_it_draws_does_not():
    for method in [*pruners.METHODS, *folders.METHODS, *EVERY]:
        if not draws({"low": Level(method, 3)}):
            one, other = kept(method, 1), kept(method, 2)
            assert torch.equal(one.keys, other.keys) and torch.equal(one.positions, other.positions)


@pytest.mark.parametrize("method", [RandomPruning(), Compactor(sketch=4)], ids=repr)
def test_who_says_that_it_draws_does(method):
    assert draws({"low": Level(method, 3)})
    assert not torch.equal(kept(method, 1).values, kept(method, 2).values)


@dataclass(frozen=True)
class Own(KeyNorm):
    """What users may hang on a compressor."""

    extra: Any = None
    hidden: Any = field(default=None, repr=False, compare=False)


class Plain(Compressor):
    """No dataclass."""

    def __init__(self, power):
        self.power = power

    def compress(self, kv, obs, keep):
        return kv.take(torch.arange(keep))

    def flops(self, sizes):
        return 0


def test_whatever_a_compressor_holds_counts(tmp_path):
    file = tmp_path / "scores.json"
    file.write_text("1")
    held = [1, 1.5, True, "a", None, (1, 2), [1, 2], {"a": 1}, {"a": 2}, torch.float16, KeyNorm(), ToMe(), file,
            str(file), b"a", Fields(1), Fields(2), "x" * 2000, "x" * 1999 + "y"]  # fmt: skip
    found = [at({"low": Level(Own(extra=one), 2)}) for one in held]
    found += [at({"low": Level(Own(hidden=one), 2)}) for one in held if one is not None]
    file.write_text("2")  # what is in a file that it names
    found += [at({"low": Level(Own(extra=named), 2)}) for named in (file, str(file))]
    assert all_differ(found)
    assert found[0] == at({"low": Level(Own(extra=1), 2)})


class Listed(list):
    """What it lists is no attribute."""


class Number(float):
    """Nor is its value."""


class Named(dict):
    """Here the attributes would be lost."""


class Slotted(Plain):
    """Attributes, and a slot that is none."""

    __slots__ = ("power",)


class Text(str):
    """A text with attributes."""


@dataclass(frozen=True)
class Weighted(list):
    """Fields, and a list."""

    weight: int = 1


@dataclass
class Loose:
    """Its fields may change."""

    power: int = 1


def test_what_cannot_be_told_apart_is_refused():
    loop = []
    loop.append(loop)
    for what in (
        lambda x: x,
        KeyNorm,
        torch,
        iter([]),
        partial(max, 1),
        partial(Plain, power=1),
        Listed([1]),
        Number(1.5),
        Named(a=1),
        defaultdict(list),
        Slotted(1),
        Text("a"),
        Weighted(2),
        Loose(),
        Plain(1),
        {1, 2},
        object(),
        torch.ones(2),
        torch.nn.Linear(2, 2),
        torch.ones(2, device="meta"),
        loop,
    ):
        with pytest.raises(Unaddressable):
            at({"low": Level(Own(extra=what), 2)})
        with pytest.raises(Unaddressable):
            code_digest({"low": Level(Own(extra=(what,)), 2)})
    with pytest.raises(Unaddressable, match="Plain cannot be told; make it a frozen dataclass"):
        at({"low": Level(Plain(1), 2)})


@dataclass(frozen=True, slots=True)
class Fields:
    """Slots that are fields."""

    power: int = 1


def test_a_folder_as_a_setting_is_refused(tmp_path, monkeypatch):
    """What is in it may change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "fold").mkdir()
    for where in ("./fold", "~/fold", Path("fold"), tmp_path / "fold"):
        with pytest.raises(Unaddressable, match="fold is a folder.* name the files"):
            at({"low": Level(Own(extra=where), 2)})
    assert at({"low": Level(Own(extra="./none"), 2)})


# --- code ----------------------------------------------------------------------------------------------------------

COMPRESSOR = """
from dataclasses import dataclass
from x2l.compressors.pruning_base import ScoredPruning
import {helper}

@dataclass(frozen=True)
class Contrast(ScoredPruning):
    name: str = "contrast"

    def score(self, kv, obs):
        return {sign}{helper}.norms(kv)

    def flops(self, sizes):
        return 0
"""
HELPER = """
from {deeper} import POWER

def norms(kv):
    return kv.keys[0].norm(dim=-1) ** POWER
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    """A compressor of the user's in three files: `write(...)` edits them, and gives it as a new process sees it."""
    monkeypatch.syspath_prepend(tmp_path)
    own, helper, deeper = (
        f"{name}_{tmp_path.name}".replace("-", "_") for name in ("own", "helper", "deeper")
    )

    def write(sign="", above="", power="POWER = 1"):
        texts = {
            own: COMPRESSOR.format(helper=helper, sign=sign),
            helper: above + HELPER.format(deeper=deeper),
            deeper: power,
        }
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(own).Contrast()

    yield write
    for name in (own, helper, deeper):
        sys.modules.pop(name, None)


def test_the_source_of_a_users_compressor_counts_with_all_that_it_imports(users):
    def of(**change):
        return code_digest({"low": Level(users(**change), 2)})

    first = of()
    assert all_differ([first, of(sign="-"), of(above="# a word\n"), of(power="POWER = 2")])
    assert of() == first
    assert code_digest(LEVELS) != first


def test_the_code_that_runs_counts_not_the_file(users, tmp_path):
    """A file that is edited while a sweep runs: its next job, in the same process, still has the code as it was."""
    method = users()
    first = code_digest({"low": Level(method, 2)})
    path = Path(sys.modules[type(method).__module__].__file__)
    path.write_text(path.read_text() + "# edited\n")
    assert code_digest({"low": Level(method, 2)}) == first
    importlib.reload(sys.modules[type(method).__module__])  # a notebook
    assert code_digest({"low": Level(method, 2)}) != first


def test_any_code_of_x2l_up_to_the_engine_counts(tmp_path):
    package = tmp_path / "x2l"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    found = [engine_digest.__wrapped__(package)]
    assert found[0] == engine_digest.__wrapped__(PACKAGE)
    edited = ("kv.py", "models/rotary.py", "compressors/pooling.py", "engine/disk_cache/key.py")
    for name in edited:
        (package / name).write_text((package / name).read_text() + "# edited\n")
        found.append(engine_digest.__wrapped__(package))
    assert all_differ(found)
    (package / "evaluation" / "runner.py").write_text("")  # above it
    assert engine_digest.__wrapped__(package) == found[-1]


def test_a_compressor_within_a_compressor_counts(users):
    composed = folders.COMPOSED[0].__class__
    found = [code_digest({"low": Level(composed(users(sign=sign)), 2)}) for sign in ("", "-")]
    assert all_differ(found)


def test_a_codec_and_an_object_without_fields_count(users):
    found = [code_digest({"low": Level(Own(extra=users(sign=sign)), 2)}) for sign in ("", "-")]
    assert all_differ(found)


def test_a_class_without_a_source_file_is_refused(monkeypatch):
    module = type(sys)("typed_in")
    monkeypatch.setitem(sys.modules, "typed_in", module)
    monkeypatch.setattr(Own, "__module__", "typed_in")
    with pytest.raises(
        Unaddressable, match=r"'typed_in' has no source file; put .* into a \.py file"
    ):
        code_digest({"low": Level(Own(), 2)})


# --- the model -----------------------------------------------------------------------------------------------------


def test_weights_configuration_processor_and_rule_tell_models_apart():
    base = build("qwen2_5_vl")
    own = processor("qwen2_5_vl")
    found = [fingerprint(base, own, "reference")]
    assert fingerprint(build("qwen2_5_vl"), own, "reference") == found[0]
    found += [
        fingerprint(base, own, "hf"),
        fingerprint(build("qwen2_5_vl", torch.bfloat16), own, "reference"),
    ]
    eager, epsilon, one_bit = build("qwen2_5_vl"), build("qwen2_5_vl"), build("qwen2_5_vl")
    eager.set_attn_implementation("eager")
    epsilon.config.text_config.rms_norm_eps *= 2
    with torch.no_grad():
        weight = list(one_bit.parameters())[-1].view(-1).view(torch.int32)
        weight[-1] ^= 1
    found += [fingerprint(one, own, "reference") for one in (eager, epsilon, one_bit)]
    mean = list(own.video_processor.image_mean)
    own.video_processor.image_mean = [0.1, *mean[1:]]
    try:
        found.append(fingerprint(base, own, "reference"))
    finally:
        own.video_processor.image_mean = mean
    assert all_differ(found)
    base.config._name_or_path = "moved"
    assert fingerprint(base, own, "reference") == found[0]


def test_weights_on_meta_need_a_commit():
    hollow = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(UntoldWeights, match=r"2 weights \(the first is bias\) .* no commit"):
        weights_digest(hollow)
    assert weights_digest(hollow, "a commit")
    base, own = build("qwen2_5_vl").to("meta"), processor("qwen2_5_vl")
    with pytest.raises(UntoldWeights):
        fingerprint(base, own)
    found = []
    for base.config._commit_hash in ("one", "other"):
        found.append(fingerprint(base, own))
    assert all_differ(found)


def test_the_precision_of_products_counts():
    model = HFVideoModel(build("qwen2_5_vl"), processor("qwen2_5_vl"))
    before = model.fingerprint
    torch.set_float32_matmul_precision("medium")
    try:
        assert model.fingerprint != before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert model.fingerprint == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_bit_sums_tell_any_number_and_any_order(dtype):
    flat = (100 * torch.rand(1000, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = [bit_sums(flat)]
    for place in (0, 500, 999):
        other = flat.clone()
        other.view(torch.uint8)[place * dtype.itemsize] ^= 1
        found.append(bit_sums(other))
    distinct = flat.unique()
    found += [bit_sums(distinct), bit_sums(distinct.flip(0))]
    assert all_differ(found) and bit_sums(flat.clone()) == found[0]
