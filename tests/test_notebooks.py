"""What notebooks in git look like. That they run is nbmake's part: `pytest --nbmake`, switched on in pyproject.toml."""

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.fork_server import give_kernels
from tests.synthetic import sweep
from x2l.runs.records import RecordWriter

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


def analysed(records, folder, monkeypatch, more=""):
    """The analysis of some records, run; `more` is a last cell."""
    with RecordWriter(folder / "records.jsonl") as writer:
        for record in records:
            writer.append(record)
    monkeypatch.setenv("X2L_SWEEP", str(folder))
    monkeypatch.setenv("X2L_OUTPUTS", str(folder / "none"))
    give_kernels(monkeypatch, folder)
    notebook = nbformat.read(FOLDER / "analyse.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(more))
    # Not in notebooks/: a notebook finds the project from anywhere.
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": folder}}).execute()
    return notebook


@pytest.mark.slow
def test_the_analysis_takes_the_sweep_that_it_is_given(tmp_path, monkeypatch):
    """With full KVs and several k, which the small sweep that it makes for itself has not."""
    notebook = analysed(sweep(compressors=("tome",), videos=4, questions=3), tmp_path, monkeypatch)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "minus full KVs" in printed and "minus random at the same k" in printed
    assert "tome attention k=2" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not (tmp_path / "none").exists()
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@pytest.mark.slow
def test_the_analysis_draws_every_point_of_whatever_the_sweep_varies(tmp_path, monkeypatch):
    """Two ratios beside each other, and budgets instead of numbers of chunks."""
    budgets = {0: "7.5%", 1: "10.4%", 2: "22%", 4: "100%"}  # as text they rise in another order
    records = [
        replace(
            record, condition=replace(record.condition, top_k=budgets.get(record.condition.top_k))
        )
        for record in sweep(compressors=("tome",), ratios_high=(8.0, 32.0), videos=4, questions=3)
    ]
    drawn = (
        "import json\n"
        "line_of = lambda line: [line.get_label(), list(map(float, line.get_xdata()))]\n"
        "ticks = [tick.get_text() for tick in panels[0, 0].get_xticklabels()]\n"
        "texts = [text for text, _ in compared['random at the same k']]\n"
        "print(json.dumps([[line_of(line) for line in panels[0, 0].lines], ticks, texts]))"
    )
    notebook = analysed(records, tmp_path, monkeypatch, drawn)
    lines, ticks, texts = json.loads(notebook.cells[-1].outputs[0].text)
    assert ticks == list(budgets.values())
    ratios, selectors = ("high 8x", "high 32x"), ("attention", "oracle", "random")
    selecting = {f"{selector} {ratio}" for selector in selectors for ratio in ratios}
    controls = {f"{control} {ratio}" for control in ("all-low", "all-high") for ratio in ratios}
    assert sorted(name for name, _ in lines) == sorted(selecting | controls)
    assert all(x == [0, 1, 2, 3] for name, x in lines if name in selecting)
    assert len(set(texts)) == len(texts) == 8
