"""Every family through `x2l` itself: saved to a folder, loaded by path, every compressor, every selector."""

import json

import pytest

from tests.cli.test_run import SMALL, x2l
from tests.tiny import FAMILIES, save

pytestmark = pytest.mark.slow
COMPRESSORS = ["key_norm", "random", "uniform", "tome", "mean_pool"]
SELECTORS = ["all", "none", "random", "uniform", "oracle", "embedding", "attention"]
FEW = [*SMALL, "benchmark.videos=1", "limit=1", f"selector=[{','.join(SELECTORS)}]", "top_k=1"]
FEW += ["levels.high.ratio=8", "hydra.sweep.dir=outputs/s"]


def test_needle_with_every_family_compressor_and_selector(tmp_path):
    """Every family with one compressor; all with two, of which the first has text inside its chunks."""
    folders = {family: tmp_path / family for family in FAMILIES}
    for family, folder in folders.items():
        save(family, folder)
    both = [folders["qwen3_vl"], folders["llava_onevision"]]
    for models, compressors in ((folders.values(), ["tome"]), (both, COMPRESSORS)):
        done = x2l(
            tmp_path,
            "-m",
            *FEW,
            f"model.name_or_path={','.join(map(str, models))}",
            f"compressor={','.join(compressors)}",
        )
        assert done.returncode == 0, done.stderr
    runs = {}
    for path in (tmp_path / "outputs" / "s").rglob("run.json"):
        info = json.loads(path.read_text())["config"]
        level = info["levels"]["high"]["compressor"]["_target_"]
        rows = [
            json.loads(line) for line in (path.parent / "records.jsonl").read_text().splitlines()
        ]
        runs[info["model"]["name_or_path"], level] = rows
    assert len(runs) == len(FAMILIES) + 2 * (len(COMPRESSORS) - 1)
    for (name, level), rows in runs.items():
        assert {row["selector"] for row in rows} == set(SELECTORS), (name, level)
        assert len(rows) == len(SELECTORS)
        assert all(row["kv_bytes_full"] > row["kv_bytes_stored"] for row in rows), (name, level)
        measured = [row["measured_ratio"] for row in rows]
        ratios = {(ratio["low"], ratio["high"]) for ratio in measured}
        assert all(1.9 <= low <= 2 and 7 <= high <= 8 for low, high in ratios), (name, ratios)
        assert all(row["flops_vision"] > 0 for row in rows)
