"""Every file in conf/ composes, resolves, and fits the signature of what it names."""

import inspect
import re
import shlex
from itertools import zip_longest

import pytest
from hydra import compose
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.docs.published import SHAPES, headed
from tests.tiny import processor
from x2l.cli.compose import (
    CONF,
    build_level,
    engine,
    hydra_of_its_own,
    plain,
    run_folder,
)
from x2l.compressors.head_budgets import AdaKV
from x2l.compressors.pruning_by_attention import SnapKV
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import Quantised
from x2l.evaluation.settings import DTYPES, POSITION_RULES, POSITIONS, READERS, ConfigError
from x2l.models import huggingface, loading
from x2l.models.checkpoint import overridden
from x2l.models.families import FAMILIES

GIVEN = {"tracker": {"folder", "run_id", "name", "group", "config"}}  # by run.py, at run time
CONTROLS = sorted(path.stem for path in (CONF / "control").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent not in (CONF, CONF / "experiment")
)


def composed(*overrides, whole=False):
    with hydra_of_its_own():
        return compose("config", list(overrides), return_hydra_config=whole)


def nodes(values, at=""):
    """(path, node) of everything with a `_target_`."""
    if isinstance(values, dict):
        if "_target_" in values:
            yield at, values
        for key, value in values.items():
            yield from nodes(value, f"{at}.{key}" if at else str(key))


def bind(at, node):
    target = get_object(node["_target_"])
    arguments = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    given = dict.fromkeys(GIVEN.get(at, ()))
    inspect.signature(target).bind(**arguments, **given)


def test_there_are_files_to_test():
    groups = {group for group, _ in OPTIONS}
    assert {"model", "benchmark", "compressor", "selector", "prefill", "tracker"} <= groups
    assert {"demo", "paper_main"} <= set(EXPERIMENTS)
    assert len(OPTIONS) >= 20


def turns():
    """Options to compose at once, one of each group; alone only a control, which sets options of other groups."""
    groups = {}
    for group, option in OPTIONS:
        groups.setdefault(group, []).append(option)
    alone = [{"control": option} for option in groups.pop("control")]
    rows = zip_longest(*groups.values())
    return alone + [
        {group: option for group, option in zip(groups, row, strict=True) if option} for row in rows
    ]


def test_no_option_is_left_out_of_the_turns():
    assert sorted(pair for turn in turns() for pair in turn.items()) == OPTIONS


@pytest.mark.parametrize("turn", turns(), ids=lambda turn: "-".join(turn.values()))
def test_every_option_composes_and_binds(turn):
    values = plain(composed(*(f"{group}={option}" for group, option in turn.items())))
    for at, node in nodes(values):
        bind(at, node)
    for group, option in turn.items():
        expected = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
        expected.pop("defaults", None)
        mounted = [values.get(group, {})]
        if group == "hydra/launcher":  # their plugins are extras: tests/cli/test_launchers.py
            mounted = [composed(f"{group}={option}", whole=True).hydra.launcher]
        if group in ("compressor", "codec"):
            mounted = [values["levels"][level].get(group, {}) for level in ("low", "high")]
        assert all(set(expected) <= set(place) for place in mounted), group


def expanded(axis, values):
    """The values of a sweep's axis; Hydra's glob stands for the files of a group."""
    if not values.startswith("glob("):
        return re.split(r",(?![^\[]*\])", values)  # not inside a list
    pattern, _, excluded = values.removeprefix("glob(").rstrip(")").partition(",exclude=")
    files = [path.stem for path in (CONF / axis).glob(f"{pattern}.yaml")]
    return sorted(name for name in files if name != excluded)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_binds_with_each_value_of_its_axes(name):
    config = composed(f"experiment={name}", whole=True)
    axes = dict(config.hydra.sweeper.params or {})
    assert str(config.hydra.mode) == "RunMode.MULTIRUN"
    columns = [[f"{axis}={value}" for value in expanded(axis, str(axes[axis]))] for axis in axes]
    for point in zip_longest(*columns):
        words = [word for word in point if word]
        for at, node in nodes(plain(composed(f"experiment={name}", *words))):
            bind(at, node)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_opens_with_the_command_that_runs_it(name):
    first, second, *_ = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"  # Hydra reads it on the first line only
    assert second.startswith("# x2l ") and f"experiment={name}" in second


def for_video_xl():
    """One point of every line that is meant for Video-XL; its sets and compressors take turns."""
    texts = ((name, (CONF / "experiment" / f"{name}.yaml").read_text()) for name in EXPERIMENTS)
    lines = [(name, line) for name, text in texts for line in text.splitlines()]
    lines = [(name, shlex.split(line[1:])) for name, line in lines if "model=video_xl_7b" in line]
    for turn, (name, words) in enumerate(lines):
        axes = dict(word.partition("=")[::2] for word in words if "=" in word)
        for axis in ("benchmark", "compressor"):
            values = axes[axis].split(",")
            axes[axis] = values[turn % len(values)]
        point = [f"{key}={value}" for key, value in axes.items()]
        yield name, [*point, *(word for word in words if word.startswith("~"))]


def test_every_experiment_has_a_line_for_video_xl():
    assert {name for name, _ in for_video_xl()} == {*EXPERIMENTS} - {"demo"}


@pytest.mark.parametrize(("name", "point"), list(for_video_xl()))
def test_a_line_for_video_xl_is_checked_and_built_but_for_the_weights(name, point):
    words = [word for word in point if not word.startswith("hydra.")]
    made = engine([*words, "model.device=cpu"])  # that of the retriever, too
    settings, (benchmark,) = made.settings, [w[10:] for w in point if w.startswith("benchmark=")]
    assert (settings.context, settings.positions) == ("own", "compact")
    assert settings.model == "sy1998/Video_XL" and settings.benchmark == benchmark
    frames, fps = {"mlvu": (256, None), "videomme": (128, None), "vnbench": (None, 1)}.get(
        benchmark, (256, None)
    )
    if name != "paper_efficiency":  # whose axis they are
        assert (settings.frames, settings.fps) == (frames, fps)


def test_a_wrong_argument_is_caught():
    with pytest.raises(TypeError, match="needels"):
        bind("benchmark", {**composed().benchmark, "needels": 3})


def test_compressor_sets_both_levels_and_each_can_have_its_own():
    def targets(*overrides):
        levels = composed(*overrides).levels
        return [levels[level].compressor._target_.split(".")[-1] for level in ("low", "high")]

    assert targets("compressor=mean_pool") == ["MeanPool", "MeanPool"]
    both = ["compressor=tome", "compressor@levels.high.compressor=mean_pool"]
    assert targets(*both) == ["ToMe", "MeanPool"]
    assert targets("compressor@levels.low.compressor=key_norm")[0] == "KeyNorm"


def test_a_level_has_its_codec_its_layers_and_the_methods_inside_its_compressor():
    both = composed("codec=int8", "codec@levels.high.codec=int4", "levels.high.layers=pyramid")
    low, high = (build_level(both.levels[name]) for name in ("low", "high"))
    assert (low.codec, low.layers) == (Quantised(8), None)
    assert (high.codec, high.layers) == (Quantised(4), "pyramid")
    inner = composed(
        "compressor=ada_kv",
        "compressor@levels.high.compressor.pruner=key_norm",
        "levels.low.layers=[1,2,3.5]",
    )
    low, high = (build_level(inner.levels[name]) for name in ("low", "high"))
    assert (low.compressor, high.compressor) == (AdaKV(SnapKV()), AdaKV(KeyNorm()))
    assert (low.codec, low.layers) == (None, (1, 2, 3.5))
    with pytest.raises(ConfigError, match=r"layers='steep': must be 'uniform' \(or null\)"):
        build_level(composed("levels.low.layers=steep").levels.low)


def test_levels_between_take_what_they_do_not_say_from_all():
    base = ["compressor=mean_pool", "codec=int8", "+levels.mid=8"]
    values = plain(composed(*base))
    assert values["levels"]["mid"] == {
        "ratio": 8,
        "layers": None,
        "compressor": values["compressor"],
        "codec": values["codec"],
    }
    own = ["+compressor@levels.mid.compressor=kmeans", "+levels.mid={ratio:8,layers:pyramid}"]
    mid = plain(composed(*own))["levels"]["mid"]
    assert (mid["ratio"], mid["layers"], mid["codec"]) == (8, "pyramid", {})
    assert mid["compressor"]["_target_"].endswith("KMeans")
    made = engine(base)
    assert made.settings.level_names == tuple(made.levels) == ("low", "mid", "high")
    assert [level.method for level in made.settings.levels] == ["mean_pool-int8"] * 3
    of_own = engine([*own, "compressor=tome", "top_k=2+4"]).settings
    assert [level.method for level in of_own.levels] == ["tome", "kmeans-pyramid", "tome"]
    nested = engine(["compressor=d2o", "+levels.mid=8"]).settings.levels
    assert [level.method for level in nested] == ["d2o.attention_received"] * 3


@pytest.mark.parametrize("levels", [[], ["+levels.mid=8"], ["+levels.mid=null"]])
def test_a_list_of_top_k_is_several_runs_whatever_the_levels(levels):
    assert engine([*levels, "top_k=[2,4]"]).settings.top_k == (2, 4)


def test_a_ladder_is_one_word():
    assert engine(["+levels.mid=8", "top_k=[2+4,1,12%]"]).settings.top_k == ("2+4", 1, "12%")


def test_levels_of_the_users_own_names():
    named = [
        "~levels.low",
        "~levels.high",
        "+levels.bare=32",
        "+levels.fine={ratio:2,layers:pyramid}",
    ]
    made = engine([*named, "prefill.context=fine", "compressor=kmeans"])
    fine, bare = made.settings.levels
    assert (fine.name, fine.ratio, fine.method) == ("fine", 2, "kmeans-pyramid")
    assert (bare.name, bare.ratio, bare.method) == ("bare", 32, "kmeans")
    assert {name: level.ratio for name, level in made.levels.items()} == {"fine": 2, "bare": 32}
    assert engine(["levels.high=16", "levels.low=4"]).settings.levels[1].ratio == 16


def test_a_control_is_recorded_where_it_stands_in_for_the_choice_of_chunks():
    """The others are compressors: their cells are told apart by their selectors, as any method's are."""
    recorded = {name: engine([f"control={name}"]).settings.control for name in CONTROLS}
    equal = {name: name for name in ("equal_kv_bytes", "equal_flops")}
    assert recorded == {**dict.fromkeys(CONTROLS), **equal}
    levels = engine(["control=random_pruning"]).settings.levels
    assert {level.compressor for level in levels} == {"random"}
    assert engine(["control.holds_equal=flops"]).settings.control == "equal_flops"
    with pytest.raises(ConfigError, match="holds_equal=seconds: must be one of kv_bytes, flops"):
        engine(["control.holds_equal=seconds"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["compressor@levels.high.compressor=kmeans", "levels.high=3"],
            r"levels\.high=3: takes the place of .* compressor kmeans; write levels\.high\.ratio=3",
        ),
        (
            ["control=random_pruning", "+levels.mid=8"],
            r"control=random_pruning: changes .* not that of levels\.mid; .*levels\.mid\.compressor=",
        ),
        (["+levels.mid.ratio=8", "+levels.mid.layer=1"], r"levels\.mid\.layer: is no setting"),
        (
            ["+compressor@levels.mid.compressor=kmeans", "++levels.mid=8", "top_k=1"],
            r"levels\.mid=8: takes the place of .* compressor kmeans; write levels\.mid\.ratio=8",
        ),
        (["levels.high.layers=steep"], r"levels\.high\.layers='steep'"),
        (["prefill.cache=true"], r"prefill\.cache=True: must be a folder"),
        (["video.cache=true"], r"video\.cache=True: must be a folder"),
        (["video.cache_gb=0"], r"video\.cache_gb=0: must be a number above 0.*video\.cache=null"),
        (["levels.low=null"], r"levels=\['high'\]: must be two or more"),
        (["levels.low.ratio=40"], r"levels\.low\.ratio=40: must be at most .*=32; .*swap"),
        (["+levels.mid=8", "+levels.more=8", "top_k=1"], "must have different ratios"),
        (["+levels.mid={layers:pyramid}"], r"levels\.mid\.ratio=null: must be tokens in"),
        (["levels.high=none", "levels.low=none"], r"chunks can be dropped at one of them only"),
        (["levels.low=none"], r"levels\.low\.ratio=inf: must be at most .*=32; .*swap"),
        (
            ["levels.high=none", "prefill.context=high"],
            r"context='high': must be one of full, own, low",
        ),
        (["decode.batch=0"], r"decode\.batch=0: must be a whole number of at least 1; or auto"),
        (
            ["decode.batch=all"],
            r"decode\.batch='all': must be a whole number of at least 1; or auto",
        ),
        (["decode.batch=1.5"], r"decode\.batch=1\.5: must be"),
        (["selection.taking=best"], r"selection\.taking=best: must be one of top, aks"),
        (["+levels.mid=8", "top_k=1+2+4"], r"top_k=1\+2\+4: .*so give 2"),
        (["top_k=2+4"], "levels are low, high, so give 1"),
        (["+levels.mid=8", "prefill.context=middle"], "must be one of full, own, low, mid, high"),
    ],
)
def test_wrong_levels_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        engine(overrides)


def test_selector_takes_one_name_or_a_list():
    assert list(composed("selector=oracle").selector) == ["oracle"]
    three = composed("selector=[oracle,attention,random]", "seed=7").selector
    assert list(three) == ["oracle", "attention", "random"]
    assert three.random.seed == 7
    with pytest.raises(ConfigCompositionException, match=r"selector/bogus(.|\n)*attention"):
        composed("selector=bogus")


def test_unknown_keys_are_refused():
    with pytest.raises(ConfigCompositionException):
        composed("levels.low.ration=2")


def test_a_run_folder_is_named_by_what_is_computed():
    def name(*overrides):
        return run_folder(_root_=composed(*overrides, whole=True))

    assert name("compressor=tome").startswith("tome-2x-32x-")
    assert name("compressor=tome", "compressor@levels.high.compressor=mean_pool").startswith(
        "tome+mean_pool-2x-32x-"
    )
    assert name("compressor=tome", "codec=int4", "levels.high.layers=pyramid").startswith(
        "tome-int4+tome-int4-pyramid-2x-32x-"
    )
    assert name("compressor=tome", "+levels.mid=8", "top_k=1+2").startswith("tome-2x-8x-32x-")
    assert name(
        "compressor=tome", "prefill.chunk_frames=16", "seed=1", "benchmark=vnbench"
    ).startswith("tome-2x-32x-vnbench-chunk16-seed1-")
    assert name("+levels.mid=null") == name()
    assert name("compressor=d2o").startswith("d2o.attention_received-2x-32x-")
    same = {name(), name("limit=3"), name("selector=oracle", "top_k=[0,1]"), name("tracker=none")}
    other = {name("video.frames=64"), name("levels.low.ratio=4"), name("seed=1")}
    assert len(same) == 1 and len(same | other) == 4


def test_outputs_stay_under_outputs():
    config = composed(whole=True)
    assert config.hydra.run.dir.startswith("outputs/runs/")
    assert config.hydra.sweep.dir.startswith("outputs/sweeps/")
    assert config.benchmark.root.startswith("outputs/")


def test_values_that_are_checked_early_are_those_of_the_engine():
    """settings.py repeats a few words of the engine, so as not to import it; they must agree."""
    from x2l import video
    from x2l.engine import kv_store as store

    assert POSITIONS == store.POSITIONS
    assert DTYPES == loading.DTYPES
    assert POSITION_RULES == huggingface.POSITION_RULES
    assert READERS == video.READERS


MODELS = sorted((CONF / "model").glob("*.yaml"))
PUBLISHED = [path for path in MODELS if path.stem != "x2l_tiny"]
MODEL_KEYS = {"_target_"} | set(inspect.signature(loading.load).parameters) - {"check_shape"}


def test_published_checkpoints_of_every_family_have_a_file():
    found = {SHAPES[path.stem]().model_type for path in PUBLISHED}
    assert found == set(FAMILIES)
    sizes = {"qwen2_5_vl": {"3b", "7b", "32b", "72b"}, "qwen2_vl": {"2b", "7b", "72b"}}
    sizes |= {"qwen3_vl": {"2b", "4b", "8b", "32b", "30b_a3b", "235b_a22b"}}
    sizes |= {"smolvlm2": {"256m", "500m", "2_2b"}, "internvl3_5": {"30b_a3b", "241b_a28b"}}
    for family, wanted in sizes.items():
        assert {f"{family}_{size}" for size in wanted} <= {path.stem for path in PUBLISHED}
    names = [OmegaConf.load(path).name_or_path for path in MODELS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_says_everything_that_loading_takes(path):
    config = OmegaConf.load(path)
    authors_own = path.stem in SHAPES and SHAPES[path.stem]().model_type == "llava_video"
    keys = MODEL_KEYS if authors_own else MODEL_KEYS - {"original"}
    assert set(config) == keys and config.trust_remote_code is False
    assert (config.device is None) != (config.device_map is None)
    assert config.dtype in loading.DTYPES and config.attn_implementation in loading.ATTENTION


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_model_is_supported_and_opens_with_licence_and_memory(path):
    """Weights and KVs are computed from the published sizes, not copied."""
    config, shape = OmegaConf.load(path), SHAPES[path.stem]()
    huggingface.check_supported(shape)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", config.name_or_path)
    text = path.read_text()
    assert headed(path) == text
    first, second, *others = text.splitlines()
    assert re.match(
        r"# ([^;]*licen[^;]*|Apache-2.0|MIT); [\d.]+ B parameters, [\d.]+ GB in bf", first
    )
    assert re.search(r"KVs [\d ]+ bytes a token$", first) and "80 GB" in second
    assert any(line.startswith("# ") and "frames" in line for line in others)
    if config.video_processor is not None:
        stock = processor(shape.model_type).video_processor
        changed = overridden(stock, OmegaConf.to_container(config.video_processor))
        assert dict(changed.size) == dict(config.video_processor.size)


def test_no_path_of_a_machine_in_any_file():
    for path in CONF.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            assert not re.search(r"(^|[\s:=])(~|/\w+/)", line.split("#")[0]), path


def test_a_control_changes_both_levels_or_the_frames_and_nothing_else():
    def changed(*overrides):
        base, values = plain(composed("levels.high.ratio=16")), plain(composed(*overrides))
        return {key for key in base if base[key] != values[key]}, values

    for control, target in (
        ("random_pruning", "RandomPruning"),
        ("uniform_pruning", "UniformPruning"),
    ):
        names, values = changed("levels.high.ratio=16", f"control={control}")
        assert names == {"levels"}
        levels = values["levels"].values()
        assert {level["compressor"]["_target_"].split(".")[-1] for level in levels} == {target}
        assert [level["ratio"] for level in levels] == [2, 16]
    names, values = changed("levels.high.ratio=16", "control=equal_flops")
    assert names == {"control"} and values["control"] == {"holds_equal": "flops"}


def test_controls_stand_beside_any_method():
    """`experiment=paper_main control=... compressor=...`: what the command line says of the method stays."""
    config = composed("experiment=paper_main", "control=random_pruning", "compressor=mean_pool")
    assert config.levels.low.compressor._target_.endswith("RandomPruning")
    method = composed("experiment=paper_main", "control=none", "compressor=mean_pool")
    assert method.levels.low.compressor._target_.endswith("MeanPool")
    (told,) = re.findall(r"control=([\w,]+)", (CONF / "experiment" / "paper_main.yaml").read_text())
    assert {"none", *told.split(",")} == set(CONTROLS)


def test_the_control_of_fewer_frames_has_a_folder_of_its_own():
    names = [
        run_folder(_root_=composed(f"control={control}", whole=True))
        for control in ("none", "equal_flops")
    ]
    assert names[1].startswith(f"equal_flops-{names[0].rpartition('-')[0]}-")
    assert names[0].rpartition("-")[2] != names[1].rpartition("-")[2]


def test_a_k_for_every_task_can_be_given_on_the_command_line():
    tuned = composed("top_k=[2,task]", "selection.top_k_by_task={retrieval: 1, ordering: 4}")
    assert plain(tuned)["selection"]["top_k_by_task"] == {"retrieval": 1, "ordering": 4}


def test_a_level_that_drops_chunks():
    """Only selectors that read the other level fit it."""
    made = engine(["levels.high=none", "selector=keys", "selection.taking=[aks,gap]"])
    assert [(level.name, level.ratio) for level in made.settings.levels] == [
        ("low", 2),
        ("high", None),
    ]
    assert made.levels["high"].dropped and not made.levels["low"].dropped
    assert made.settings.taking == ("aks", "gap")
