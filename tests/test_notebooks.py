"""What notebooks in git look like. That they run is nbmake's part: `pytest --nbmake`, switched on in pyproject.toml."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.synthetic import sweep
from x2l.records import RecordWriter

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Jupyter adds the version of Python and more under language_info, which differs with whoever saved the file last.
METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
}
REMEDY = "nbstripout --keep-id --extra-keys metadata.language_info notebooks/*.ipynb"


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"tour", "analyse", "write_a_method"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata == METADATA, REMEDY
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None, REMEDY
        assert cell.metadata == {}, REMEDY


def test_every_notebook_is_run_by_the_plain_test_command(pytestconfig):
    assert pytestconfig.getoption("nbmake") and FOLDER.name in pytestconfig.getini("testpaths")


@pytest.mark.slow
def test_the_analysis_takes_the_sweep_that_it_is_given(tmp_path, monkeypatch):
    """With full KVs and several k, which the small sweep that it makes for itself has not."""
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for record in sweep(compressors=("tome",), videos=4, questions=3):
            writer.append(record)
    monkeypatch.setenv("X2L_SWEEP", str(tmp_path))
    monkeypatch.setenv("X2L_OUTPUTS", str(tmp_path / "none"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(FOLDER / "analyse.ipynb", as_version=4)
    # Not in notebooks/: a notebook finds the project from anywhere.
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "minus full KVs" in printed and "minus random at the same k" in printed
    assert "tome attention k=2" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not (tmp_path / "none").exists()
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
