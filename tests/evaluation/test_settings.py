import json

import pytest

from x2l.evaluation.settings import (
    ConfigError,
    Settings,
    check_temporal_patch,
    config_errors,
    temporal_patch,
)
from x2l.runs.condition import LevelSpec


def levels(*ratios, names=("low", "high")):
    return tuple(LevelSpec(name, ratio, "tome") for name, ratio in zip(names, ratios, strict=True))


def settings(**changes):
    values = dict(
        run_id="a",
        model="m",
        dtype="float32",
        frames=128,
        fps=1,
        chunk_frames=8,
        context="full",
        positions="keep",
        levels=levels(2, 32),
        selectors=("attention",),
        top_k=(0, 1, 16, "gt"),
        pinned=("first", "last"),
        max_new_tokens=8,
        limit=None,
        seed=0,
    )
    return Settings(**{**values, **changes})


def test_what_is_right_passes():
    assert settings().most_chunks == 16
    assert settings(frames=9, top_k=(2,)).most_chunks == 2
    assert settings(frames=None, top_k=(1000,)).most_chunks is None
    assert settings(fps=None, levels=levels(1.0, 1)).frames == 128
    assert settings(device="cuda:1", model_positions="hf").device == "cuda:1"
    assert settings(device=None).device is None  # a device map says where


def test_the_length_of_the_videos_bounds_the_chunks():
    assert settings(seconds=32, top_k=(4,)).most_chunks == 4
    assert settings(seconds=3600).most_chunks == 16  # video.frames bounds it
    assert settings(seconds=32, fps=None).most_chunks == 16  # frames are spread over the video
    assert settings(seconds=30, frames=None, fps=0.5, top_k=(2,)).most_chunks == 2
    with pytest.raises(ValueError, match="top_k=5: the video has only 4 chunks"):
        settings(seconds=32, top_k=(5,)).check_chunks()


TUNED = {
    "benchmark": "needle",
    "split": "test",
    "top_k": (2, "task"),
    "top_k_by_task": {"retrieval": 1, "ordering": 4},
    "tuned_on": "dev",
}


def test_a_tuned_k_names_another_split():
    assert settings(**TUNED).evaluated == "needle/test"
    assert settings(**{**TUNED, "tuned_on": "mlvu/test"}).tuned_on == "mlvu/test"
    whole = {**TUNED, "benchmark": "videomme", "split": None, "tuned_on": "mlvu/dev"}
    assert settings(**whole).evaluated == "videomme/all"
    own = {**TUNED, "benchmark": "mine", "split": "b", "tuned_on": "a"}  # splits nobody knows of
    assert settings(**own).tuned_on == "a"


@pytest.mark.parametrize(
    ("benchmark", "split", "known"),
    [
        ("needle", "test", ("train", "dev")),
        ("mlvu", "test", ("dev",)),
        ("longvideobench", "test", ("val",)),
    ],
)
def test_a_tuning_split_is_one_that_the_loader_knows(benchmark, split, known):
    asked = {**TUNED, "benchmark": benchmark, "split": split}
    for name in known:
        assert settings(**{**asked, "tuned_on": name}).tuned_on == name
    for name in ("tuning", f"{benchmark}/tuning", f"{benchmark}/"):
        with pytest.raises(ValueError, match=f"tuned_on={name}: must be one of {benchmark}'s spl"):
            settings(**{**asked, "tuned_on": name})


@pytest.mark.parametrize("tuned_on", ["test", "dev", "videomme/test", "videomme/x"])
def test_a_set_without_splits_cannot_be_tuned_on(tuned_on):
    asked = {**TUNED, "benchmark": "videomme", "split": None, "tuned_on": tuned_on}
    with pytest.raises(ValueError, match=f"tuned_on={tuned_on}: must be of another benchmark"):
        settings(**asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": levels(0.5, 2)}, r"levels\.low\.ratio=0\.5: must be .*at least 1; .*1/s"),
        ({"levels": levels(2, float("inf"))}, r"levels\.high\.ratio=inf"),
        ({"levels": levels(2, "abc")}, r"levels\.high\.ratio=abc"),
        ({"levels": levels(2, True)}, r"levels\.high\.ratio=True"),
        ({"frames": 0}, r"video\.frames=0: must be a whole number of at least 1"),
        ({"frames": 1.5}, r"video\.frames=1\.5"),
        ({"frames": None, "fps": None}, r"video\.frames=null: .*give at least one"),
        ({"fps": 0}, r"video\.fps=0: must be above 0"),
        ({"chunk_frames": 0}, r"prefill\.chunk_frames=0"),
        ({"max_new_tokens": 0}, r"max_new_tokens=0"),
        ({"limit": 0}, r"limit=0: .*null for no limit"),
        ({"seed": "x"}, r"seed='x': must be a whole number"),
        ({"dtype": "float12"}, r"model\.dtype='float12': must be one of float32"),
        (
            {"levels": levels(32, 64, names=("high", "low"))},
            r"low\.ratio=64: must be at most .*=32; .*swap",
        ),
        ({"levels": levels(2, 8, 4, names="abc")}, r"levels=.*: must be finest to coarsest"),
        ({"levels": levels(2, 8, 8, names="abc")}, r"levels=.*: must have different ratios"),
        ({"levels": levels(2, names="a")}, r"levels=\['a'\]: must be two or more; .*=none or"),
        (
            {"levels": levels(None, None, names="ab")},
            r"levels=\['a', 'b'\]: chunks can be dropped at one of them only",
        ),
        ({"levels": levels(1, 2, names=("full", "b"))}, r"levels\.full: must be named by a word"),
        ({"levels": levels(1, 2, names=("2x", "b"))}, r"levels\.2x: must be named by a word"),
        ({"device": "gpu"}, r"model\.device='gpu': must be cpu, cuda"),
        ({"device": "cuda:x"}, r"model\.device='cuda:x'"),
        ({"model_positions": "keep"}, r"model\.positions='keep': must be one of reference, hf"),
        ({"context": "raw"}, r"prefill\.context='raw': must be one of full, own, low, high"),
        ({"positions": "hf"}, r"prefill\.positions='hf': must be one of keep, compact"),
        ({"selectors": ()}, r"selector=\[\]"),
        ({"taking": ()}, r"selection\.taking=\[\]: must name at least one rule"),
        ({"taking": ("top", "mass:2")}, r"selection\.taking=mass:2: its number must be above 0"),
        ({"top_k": ()}, r"top_k=\[\]"),
        ({"top_k": (-1,)}, r"top_k=-1"),
        ({"top_k": ("most",)}, r"top_k='most'"),
        ({"top_k": ("task",)}, r"selection\.top_k_by_task=\{\}: must be given where top_k holds"),
        ({"top_k_by_task": {"a": 1}}, r"top_k_by_task=\{'a': 1\}: .*top_k=\[2,task\]"),
        ({**TUNED, "tuned_on": None}, r"selection\.tuned_on=null: must name .*needle/test"),
        ({**TUNED, "tuned_on": "test"}, r"selection\.tuned_on=test: must differ .*needle/test"),
        ({**TUNED, "tuned_on": "needle/test"}, r"selection\.tuned_on=needle/test: must differ"),
        ({**TUNED, "split": None, "tuned_on": "all"}, r"selection\.tuned_on=all: must differ"),
        ({"split": "dev", "benchmark": "needle", "tuned_on": "dev"}, r"selection\.tuned_on=dev"),
        ({**TUNED, "top_k_by_task": {"a": "gt"}}, r"top_k_by_task\.a='gt': must be a whole number"),
        ({"pinned": ("middle",)}, r"selection\.pinned=\['middle'\]"),
    ],
)
def test_what_is_wrong_is_named_with_rule_and_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_a_run_takes_no_more_chunks_than_its_videos_can_have():
    """One's own question may: of a short video all are taken."""
    settings(top_k=(16,)).check_chunks()
    with pytest.raises(ValueError, match=r"top_k=17: .*only 16 chunks; use top_k <= 16"):
        settings(top_k=(17,)).check_chunks()
    with pytest.raises(ValueError, match=r"top_k_by_task\.a=17: .*only 16 chunks"):
        settings(**{**TUNED, "top_k_by_task": {"a": 17}}).check_chunks()


def test_levels_may_have_any_names():
    three = settings(levels=levels(1, 4, 16, names=("whole", "some", "few")), context="few")
    assert three.level_names == ("whole", "some", "few")
    with pytest.raises(ValueError, match="must be one of full, own, whole, some, few"):
        settings(levels=three.levels, context="high")


def test_a_chunk_is_whole_time_steps():
    check_temporal_patch(8, 2)
    with pytest.raises(ValueError, match=r"prefill\.chunk_frames=7: .*multiple .*2 frames; use 6"):
        check_temporal_patch(7, 2)
    with pytest.raises(ValueError, match="use 2"):
        check_temporal_patch(1, 2)


def test_temporal_patch_is_read_from_a_checkpoint_folder(tmp_path):
    assert temporal_patch(tmp_path) is None
    config = {"vision_config": {"temporal_patch_size": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert temporal_patch(tmp_path) == 4


def test_only_value_errors_are_taken_for_the_users():
    with pytest.raises(ConfigError, match="a=1: no"), config_errors():
        raise ValueError("a=1: no")
    with pytest.raises(KeyError), config_errors():
        raise KeyError("a")


@pytest.mark.parametrize(
    "content", ["[1]", "{", "null", '{"vision_config": null}', '{"vision_config": [2]}']
)
def test_a_config_that_says_nothing_is_left_to_loading(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert temporal_patch(tmp_path) is None
