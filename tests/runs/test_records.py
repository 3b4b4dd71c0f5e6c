import json
import os

import pytest

from tests.synthetic import record
from x2l.runs.records import RecordWriter, deterministic, load

FIELDS = (
    "schema run_id sample_id video_id task question answer prediction parsed correct selector role top_k pinned "
    "relevance assigned gt_chunks recall precision levels kept measured_ratio kv_bytes_stored kv_bytes_reloaded "
    "frames frames_sampled chunk_frames context positions model seed flops_vision flops_prefill flops_compression "
    "flops_selection flops_decode seconds_vision seconds_prefill seconds_compression seconds_selection seconds_decode"
)


def write(path, *records):
    with RecordWriter(path) as writer:
        for one in records:
            writer.append(one)


def test_a_line_is_flat(tmp_path):
    write(tmp_path / "records.jsonl", record())
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert set(FIELDS.split()) <= set(json.loads(line))


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
    assert [r.answer.prediction for r in load(path)] == ["new"]


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"run_id": "a"}', "schema 1, this version reads 3"), ('{"schema": 3}', "'video_id'")],
)
def test_json_that_is_no_record_is_an_error(tmp_path, line, message):
    path = tmp_path / "records.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=rf"records.jsonl:1: not a record .*{message}"):
        load(path)


@pytest.mark.parametrize("name", ["sample_id", "selector", "selector_config", "top_k", "pinned"])
def test_key_tells_cells_apart(name):
    other = {"pinned": ("last",), "top_k": 2}.get(name, "other")
    assert record(**{name: other}).key != record().key


def test_timings_are_not_deterministic_fields():
    slow = record(seconds_decode=9.0, seconds_read=9.0, peak_memory_decode=5, peak_memory_prefill=6)
    assert deterministic(slow) == deterministic(record())
    assert deterministic(record(prediction="B")) != deterministic(record())
