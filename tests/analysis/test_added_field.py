"""A field that is added to `Condition`, in one line, is written, read, named, filtered by and shown everywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEFORE = "    context: str = _field("
ADDED = '    lens: str = _field("lens {}")\n'
CHECKS = """
import csv, sys
from pathlib import Path
from tests.synthetic import condition, out_of_memory, record
from x2l.analysis import run_metrics
from x2l.analysis.cell_names import names
from x2l.analysis.comparison import compare, pair, read_cells
from x2l.analysis.comparison_table import table as comparisons
from x2l.analysis.curves import draw
from x2l.analysis.points import points, write_points
from x2l.analysis.points_table import table
from x2l.analysis.report.build import write_report
from x2l.analysis.sweep_tables import sweep_tables
from x2l.runs import out_of_memory_log as log
from x2l.runs.records import RecordWriter, from_json, load, to_json

folder = Path(sys.argv[1])
records = [
    record(lens=lens, video_id=f"v{n}", sample_id=f"v{n}/q", correct=float(n > 1 or lens == "wide"))
    for lens in ("wide", "tele") for n in range(4)
]
wide, tele = condition(lens="wide"), condition(lens="tele")
assert wide != tele and len({wide, tele}) == 2

assert to_json(records[0])["lens"] == "wide" and from_json(to_json(records[0])) == records[0]
with RecordWriter(folder / "records.jsonl") as writer:
    for one in records:
        writer.append(one)
assert load(folder) == records
entry = out_of_memory(wide)
log.append_out_of_memory(folder, entry)
assert log.load_out_of_memory(folder) == [entry]

rows = points(records, by_task=False, out_of_memory=[entry])
assert [p.out_of_memory for p in rows] == [0, 1]
write_points(folder / "points.csv", rows)
with (folder / "points.csv").open() as file:
    assert [row["lens"] for row in csv.DictReader(file)] == ["tele", "wide"]
assert names([wide, tele]).cell(wide) == "tome attention lens wide k=1"
assert table(rows).splitlines()[0].split()[3] == "lens"
legend = [text.get_text() for text in draw(rows, "").legends[0].get_texts()]
assert legend[:2] == ["lens tele", "lens wide"]

(a,), (b,) = read_cells(folder, {"lens": "tele"}), read_cells(folder, {"lens": "wide"})
assert (a.condition, b.condition) == (tele, wide)
text = comparisons(compare(pair([a], [b])))
assert "A: lens tele" in text and "B: lens wide" in text

metrics = run_metrics.final(records)
assert {name.split("/")[1] for name in metrics if name.startswith("final/")} == {
    "attention lens wide k=1", "attention lens tele k=1"
}
assert {"accuracy/attention lens wide k=1"} < run_metrics.running(records).keys()
tables = sweep_tables(rows, rows)
assert {row[tables.columns.index("lens")] for row in tables.rows} == {"wide", "tele"}
assert sweep_tables(rows[:1], rows[:1]).config["lens"] == "tele"

page = write_report(folder).read_text()
assert "tome attention lens wide k=1" in page and "<dt>swept: lens</dt><dd>tele, wide</dd>" in page
"""


def test_a_field_that_is_added_to_the_condition_is_seen_everywhere(tmp_path):
    ignored = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "x2l", tmp_path / "x2l", ignore=ignored)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "synthetic.py", tmp_path / "tests")
    module = tmp_path / "x2l" / "runs" / "condition.py"
    text = module.read_text()
    assert text.count(BEFORE) == 1
    module.write_text(text.replace(BEFORE, ADDED + BEFORE))
    run = tmp_path / "run"
    run.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, str(run)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
