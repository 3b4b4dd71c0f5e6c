from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.synthetic import sweep
from x2l.records import RecordWriter

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_a_sweep(path, tmp_path, monkeypatch):
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for record in sweep(compressors=("tome",), videos=4, questions=3):
            writer.append(record)
    monkeypatch.setenv("X2L_SWEEP", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": path.parent}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "minus full KVs" in printed and "tome oracle k=2" in printed
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
    assert any("image/png" in output["data"] for output in pictures)
