"""The library's public names: light to import, and six lines are enough."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import x2l
from tests.synthetic import record
from x2l.runs.records import RecordWriter
from x2l.runs.rows import rows as rows_of
from x2l.video import write_video

ROOT = Path(__file__).parents[1]
LEVELS = '{"low": x2l.Level(ToMe(), 2), "high": x2l.Level(ToMe(), 32)}'
SIX = f"""
import x2l
from x2l.compressors.merging import ToMe
model = x2l.load("x2l_tiny")
session = x2l.prefill(model, x2l.read_frames(path, frames=32, fps=1), {LEVELS})
reply = x2l.answer(session, "What is the colour of the ring?", top_k=2)
print(reply.text, reply.reloaded)
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_takes_no_time_and_no_torch():
    code = (
        "import sys, time\nstart = time.process_time()\nimport x2l\n"
        "seconds = time.process_time() - start\n"
        "import x2l.runs.records, x2l.runs.rows, x2l.runs.condition, x2l.selectors, x2l.benchmarks\n"
        "import x2l.compressors\n"
        "print(seconds < 0.1, 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    assert run(code) == "True False False"


def test_six_lines(tmp_path, capsys):
    path = tmp_path / "film.mp4"
    write_video(path, [np.full((64, 64, 3), 6 * n, np.uint8) for n in range(32)], 1)
    assert len(SIX.strip().splitlines()) == 6
    exec(SIX, {"path": str(path)})
    text, _, chunks = capsys.readouterr().out.strip().partition("(")
    assert text and len(chunks.split(",")) == 2


def test_every_public_name_is_there():
    assert set(x2l.__all__) == set(dir(x2l))
    for package in (x2l, x2l.selectors, x2l.benchmarks):
        assert all(getattr(package, name) for name in package.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018
    assert (ROOT / "x2l" / "py.typed").exists()


def test_errors_of_the_users_own_share_a_base():
    from x2l.benchmarks.base import DatasetError
    from x2l.engine.context_length import ContextError
    from x2l.evaluation.settings import ConfigError
    from x2l.models.out_of_memory import MemoryShortage
    from x2l.video import VideoError

    for kind in (ConfigError, ContextError, DatasetError, MemoryShortage, VideoError):
        assert issubclass(kind, x2l.UserError)
    with pytest.raises(x2l.UserError, match=r"none\.mp4: no such file"):
        x2l.read_frames("none.mp4", 1, None)


def test_records_are_rows_with_a_column_a_level(tmp_path, monkeypatch):
    first = record(tags={"kind": "edit"}, selector="oracle", top_k="gt", pinned=("last",))
    for run_folder in ("sweep/a", "sweep/b", "sweep/copy"):
        (tmp_path / run_folder).mkdir(parents=True)
        with RecordWriter(tmp_path / run_folder / "records.jsonl") as writer:
            writer.append(first if run_folder != "sweep/b" else record(selector="none", seed=1))
    rows = rows_of(tmp_path / "sweep")
    assert len(rows) == 2 and len(rows_of(tmp_path / "sweep" / "a")) == 1
    monkeypatch.chdir(tmp_path)
    assert len(rows_of("sw*/[ab]")) == len(rows_of("sweep/a", tmp_path / "sweep/b")) == 2
    (one,) = rows_of(str(tmp_path / "sweep" / "a"))
    assert (one["ratio.low"], one["ratio.high"], one["compressor.low"]) == (2, 32, "tome")
    assert one["measured_ratio.high"] == 32 and one["kept.low"] == (32, 32, 32)
    assert (one["tags.kind"], one["flops_decode"], one["role"]) == ("edit", 10**7, "bound")
    assert (one["selected"], one["baseline"], one["compressor"]) == ((0,), None, "tome")
    assert {row["baseline"] for row in rows} == {None, "all-high"}
    assert not any(isinstance(value, dict | list) for row in rows for value in row.values())
    with pytest.raises(x2l.UserError, match="no such folder; give a run or a sweep"):
        rows_of(tmp_path / "nowhere*")
