"""The benchmarks of speed and memory run, at a size that takes seconds, and write what they print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.speed.memory import EXACT, WAYS, draw
from tests import fork_server

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_bench_model_compares_three_caches_with_stock_generate(tmp_path):
    out = tmp_path / "tiny.json"
    options = ["--random-weights", "--size", 64, 64, "--new-tokens", 3, "--out", out]
    words = ["model=x2l_tiny", "frames=8,16", "top_k=1", *options]
    done = fork_server.run("experiments.speed.model", *words, cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["machine"] and found["versions"]["torch"] and found["weights_bytes"] > 0
    for frames in (8, 16):
        rows = {row["way"].strip(): row for row in found["rows"] if row["frames"] == frames}
        full, high, mixed = rows["full"], rows["all-high"], rows["mixed, 1 chunks"]
        assert list(rows)[-1] == "stock generate" and rows["stock generate"]["first token"] > 0
        pre_fill = rows["pre-fill 2x + 32x"]
        assert all(pre_fill[stage] > 0 for stage in ("vision", "prefill", "compression"))
        # 8 frames a chunk, 64 visual tokens: 64, 32 and 2 KVs a chunk
        assert full["kv_bytes_stored"] > high["kv_bytes_stored"] < mixed["kv_bytes_stored"]
        # keys and values of 32 KVs: 6 layers, 4 KV heads of 32, fp32; and where each of them stands
        beside = mixed["kv_bytes_reloaded"] / (32 * 6 * 2 * 4 * 32 * 4) - 1
        assert 0.04 < beside < 0.06
        assert all("failed" not in row for row in rows.values())
    assert "stock generate" in done.stdout and str(out) in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident size is read from /proc")
def test_bench_memory_counts_kvs_and_draws(tmp_path):
    words = ["experiments.speed.memory", "--one", "context high", "--frames", "64"]
    done = subprocess.run(  # not forked: it is the process that is measured, and the environment from its start
        [sys.executable, "-m", *words], capture_output=True, text=True, env=os.environ | EXACT
    )
    assert done.returncode == 0, done.stderr
    point = json.loads(done.stdout.splitlines()[-1])
    # 8 layers, 2 KV heads of 64, fp32: 8 KiB a token; L-KVs 1/2, H-KVs 1/32 and once more as context
    kvs = 8192 * point["tokens"] * (1 / 2 + 2 / 32)
    assert point["frames"] == 64 and kvs < point["kvs"] < 1.2 * kvs < point["peak"]
    draw({way: [point, {**point, "frames": 128}] for way in WAYS}, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000
