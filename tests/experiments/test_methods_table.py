"""The table of methods is what the code says, and the benchmark behind it measures."""

import json

import pytest

from experiments.docs.methods_table import (
    MEASURED,
    TARGET,
    about,
    compressor,
    families,
    kind,
    names,
    papers,
    row,
    summary,
)
from experiments.speed.compressors import Timed, measure
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pooling import MeanPool

SMALL = {"hidden": 64, "heads": 8, "kv_heads": 2, "wide": 224}
KINDS = {"pruning", "merging", "pooling", "composed"}


@pytest.mark.parametrize("name", names())
def test_the_page_says_of_each_method_what_its_code_says(name):
    """Where this fails, run experiments.speed.compressors and experiments.docs.methods_table."""
    assert f"\n| {about(name)} | " in TARGET.read_text()
    method = compressor(name)
    assert kind(method) in KINDS and len(summary(method)) > 20
    assert papers(method) or name in ("random", "uniform")


def test_every_method_is_within_its_share_of_the_prefill():
    """The goal is 5 %, at both ratios, on what was measured last."""
    measured = json.loads(MEASURED.read_text())
    missing = set(names()) - set(measured["methods"])
    assert not missing, "run experiments.speed.compressors"
    for name, seconds in measured["methods"].items():
        assert all(0 < spent <= 0.05 * measured["decoder"] for spent in seconds.values()), name


def test_columns():
    assert about("time_pool").startswith(
        '`time_pool` | pooling | Averages neighbours of the token grid, keys before RoPE | over: "time", proportional: '
    )
    merging = about("merge_kvs")
    assert "| composed |" in merging and "here with `attention_received`" in merging
    assert merging.endswith("| queries") and "2406.18139" in merging and "2306.14048" in merging
    measured = {"ratios": [2, 8], "decoder": 2.0, "methods": {"tome": {"2": 0.1, "8": 0.02}}}
    assert row("tome", measured, "all").endswith("| 5.00% | 1.00% | all |")
    assert row("kmeans", measured, "all").endswith("| - | - | all |")


def test_families_that_refuse_are_named():
    class Picky(ToMe):
        def check(self, tokens, keep):
            if tokens > 40:
                raise ValueError("too many")

    told = families(Picky())
    assert "too many" in told and "not " in told and told != families(ToMe()) == "all"


def test_the_benchmark_times_each_call_of_each_method():
    methods = {"tome": ToMe(), "task_aware": compressor("task_aware"), "mean_pool": MeanPool()}
    found = measure(methods, [2, 32], 1, 2, "cpu", SMALL)
    assert found["tokens"] == 1440 and found["decoder"] > 0
    assert set(found["methods"]) == set(methods)
    assert all(
        set(row) == {"2", "32"} and min(row.values()) > 0 for row in found["methods"].values()
    )
    # A probe text is a forward of the decoder: far more than scoring, and counted.
    assert found["methods"]["task_aware"]["32"] > found["methods"]["mean_pool"]["32"]


def test_a_timed_method_is_the_method():
    method = compressor("ada_kv")
    timed = Timed(method, "cpu")
    assert (timed.needs, timed.probe, timed.ragged) == (method.needs, method.probe, True)
    assert timed.name == "ada_kv" and not Level(timed, 4).even
