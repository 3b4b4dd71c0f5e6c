import dataclasses
import json

import pytest

from x2l.runs.run_info import (
    check_folder,
    checkpoint_digest,
    describe,
    identity,
    processor_name,
)


def config(**changes):
    return {
        "levels": {"low": {"ratio": 2}, "high": {"ratio": 32}},
        "benchmark": {"split": "test", "root": "outputs/data"},
        "selector": {"attention": {}},
        "top_k": 1,
        "limit": None,
        "tracker": {"mode": "offline"},
        "paths": {"outputs": "outputs"},
        **changes,
    }


def test_identity_ignores_where_and_how_much():
    same = config(
        selector={"oracle": {}},
        top_k=[0, 1],
        limit=3,
        paths={"outputs": "elsewhere"},
        benchmark={"split": "test", "root": "elsewhere"},
        tracker={},
    )
    assert identity(same) == identity(config())


def test_identity_sees_what_is_computed():
    other = config(levels={"low": {"ratio": 2}, "high": {"ratio": 16}})
    assert identity(other) != identity(config())
    assert identity(config(benchmark={"split": "dev", "root": "outputs/data"})) != identity(
        config()
    )


def describe_run(values):
    return describe(identity(values), values, "cpu", "a processor", 1)


CONDITIONS = ({"selector": "attention"},)


def save(info, folder, conditions=CONDITIONS, limit=None):
    return info.save(folder, conditions, limit)


def test_run_json_says_what_ran(tmp_path):
    save(describe_run(config()), tmp_path)
    values = json.loads((tmp_path / "run.json").read_text())
    assert values["config"] == config()
    assert values["run_id"] == identity(config())
    assert values["versions"]["torch"].startswith("2.")
    assert (values["device"], values["processor"], values["cpu_threads"]) == (
        "cpu",
        "a processor",
        1,
    )
    assert values["conditions"] == [{"selector": "attention"}] and values["limit"] is None
    assert {"commit", "dirty", "code"} <= values.keys()


def test_a_folder_holds_one_run(tmp_path):
    save(describe_run(config()), tmp_path)
    other = config(levels={"low": {"ratio": 2}, "high": {"ratio": 16}})
    check_folder(tmp_path, identity(other), other)  # nothing answered yet: free to take
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"levels.high.ratio: 32 there, 16 now"):
        save(describe_run(other), tmp_path)


def test_resuming_with_other_code_is_told_and_kept(tmp_path):
    info = describe_run(config())
    (tmp_path / "records.jsonl").write_text("{}\n")
    assert save(info, tmp_path) is None
    assert save(info, tmp_path) is None
    warning = save(dataclasses.replace(info, code="other"), tmp_path)
    assert warning is not None and "other source code" in warning
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [session["code"] for session in sessions] == [info.code, info.code, "other"]


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    (tmp_path / "records.jsonl").write_text("{}\n")
    values = {"model": {"name_or_path": "mine"}}
    save(describe(identity(values), values, "cpu", "p", 1, "aaa"), tmp_path)
    save(describe(identity(values), values, "cpu", "p", 1, "aaa"), tmp_path)
    with pytest.raises(
        ValueError, match="other weights under the same name .checkpoint aaa there, bbb"
    ):
        save(describe(identity(values), values, "cpu", "p", 1, "bbb"), tmp_path)


def test_the_digest_follows_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = checkpoint_digest(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert first != checkpoint_digest(str(tmp_path)) is not None
    assert checkpoint_digest("x2l_tiny") is not None
    assert checkpoint_digest("Qwen/Qwen2.5-VL-3B-Instruct") is None


def test_the_processor_has_a_name():
    assert processor_name()


def test_options_of_a_model_in_its_authors_layout_are_told_as_they_run(tmp_path):
    chosen = {"mm_spatial_pool_mode": "average"}
    for options in (None, chosen):
        save(describe(identity(config()), config(), "cpu", "p", 1, original=options), tmp_path)
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert sessions[-1]["original"] == chosen
