import dataclasses
import json
import os

import pytest

from tests.synthetic import record
from x2l.records import RecordWriter, deterministic, load
from x2l.runinfo import StatusFile, check_folder, checkpoint_digest, describe, identity

ISSUE_FIELDS = (
    "run_id sample_id video_id task question answer prediction parsed correct selector top_k pinned "
    "relevance selected gt_chunks recall precision kept_low kept_high kv_bytes_resident "
    "kv_bytes_reloaded frames chunk_frames ratio_low ratio_high measured_ratio_low "
    "measured_ratio_high compressor context positions model seed flops_vision flops_prefill "
    "flops_compression flops_selection flops_decode seconds_vision seconds_prefill "
    "seconds_compression seconds_selection seconds_decode"
)


def write(path, *records):
    with RecordWriter(path) as writer:
        for one in records:
            writer.append(one)


def test_every_field_of_the_issue_is_in_a_line(tmp_path):
    write(tmp_path / "records.jsonl", record())
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert set(ISSUE_FIELDS.split()) <= set(json.loads(line))


def test_reads_back_what_was_written(tmp_path):
    odd = record(sample_id='ü "\n', correct=None, top_k="gt", pinned=("first",), relevance=(None,))
    write(tmp_path / "records.jsonl", record(), odd)
    assert load(tmp_path) == [record(), odd]


def test_a_record_is_one_write(tmp_path, monkeypatch):
    written = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(data) or real(fd, data))
    write(tmp_path / "records.jsonl", record(), record(sample_id="v0/q1"))
    assert [data.count(b"\n") for data in written] == [1, 1]


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_costs_that_record_only(tmp_path, cut):
    path = tmp_path / "records.jsonl"
    first, second, third = (record(sample_id=f"v0/q{n}") for n in range(3))
    write(path, first, second)
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [first, second] if cut == 1 else [first]  # cut 1 takes the newline alone
    assert load(path) == whole
    write(path, third)  # must not be glued to the torn line
    assert load(path) == [*whole, third]


def test_last_record_of_a_key_wins(tmp_path):
    path = tmp_path / "records.jsonl"
    write(path, record(prediction="old"), record(prediction="new"))
    assert [r.prediction for r in load(path)] == ["new"]


def test_json_that_is_no_record_is_an_error(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"run_id": "a"}\n')
    with pytest.raises(ValueError, match=r"records.jsonl:1: not a record .*fields missing: answer"):
        load(path)


@pytest.mark.parametrize("name", ["sample_id", "selector", "selector_config", "top_k", "pinned"])
def test_key_tells_cells_apart(name):
    other = {"pinned": ("last",), "top_k": 2}.get(name, "other")
    assert record(**{name: other}).key != record().key


def test_timings_are_not_deterministic_fields():
    slow = record(seconds_decode=9.0, seconds_read=9.0, peak_memory=5, peak_memory_prefill=6)
    assert deterministic(slow) == deterministic(record())
    assert deterministic(record(prediction="B")) != deterministic(record())


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
    return describe(identity(values), values, "cpu", 1)


def test_run_json_says_what_ran(tmp_path):
    describe_run(config()).save(tmp_path)
    values = json.loads((tmp_path / "run.json").read_text())
    assert values["config"] == config()
    assert values["run_id"] == identity(config())
    assert values["versions"]["torch"].startswith("2.")
    assert values["device"] == "cpu" and values["cpu_threads"] == 1
    assert {"commit", "dirty", "code"} <= values.keys()


def test_a_folder_holds_one_run(tmp_path):
    describe_run(config()).save(tmp_path)
    other = config(levels={"low": {"ratio": 2}, "high": {"ratio": 16}})
    check_folder(tmp_path, identity(other), other)  # nothing answered yet: free to take
    write(tmp_path / "records.jsonl", record())
    with pytest.raises(ValueError, match=r"levels.high.ratio: 32 there, 16 now"):
        describe_run(other).save(tmp_path)


def test_resuming_with_other_code_is_told_and_kept(tmp_path):
    info = describe_run(config())
    write(tmp_path / "records.jsonl", record())
    assert info.save(tmp_path) is None
    assert info.save(tmp_path) is None
    warning = dataclasses.replace(info, code="other").save(tmp_path)
    assert warning is not None and "other source code" in warning
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [session["code"] for session in sessions] == [info.code, info.code, "other"]


def test_status_is_replaced_in_one_step(tmp_path, monkeypatch):
    status = StatusFile(tmp_path, "abc")
    status.write("running", records=1)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        status.write("done", records=2)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    (tmp_path / "records.jsonl").write_text("{}\n")
    values = {"model": {"name_or_path": "mine"}}
    describe(identity(values), values, "cpu", 1, "aaa").save(tmp_path)
    describe(identity(values), values, "cpu", 1, "aaa").save(tmp_path)
    with pytest.raises(
        ValueError, match="other weights under the same name .checkpoint aaa there, bbb"
    ):
        describe(identity(values), values, "cpu", 1, "bbb").save(tmp_path)


def test_the_digest_follows_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = checkpoint_digest(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert first != checkpoint_digest(str(tmp_path)) is not None
    assert checkpoint_digest("x2l_tiny") is not None
    assert checkpoint_digest("Qwen/Qwen2.5-VL-3B-Instruct") is None
