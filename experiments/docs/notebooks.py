"""Runs the notebooks and writes their pages, with plots, to docs/notebooks; notebooks themselves stay without outputs.

    python -m experiments.docs.notebooks            # those that have changed since their page was written
    python -m experiments.docs.notebooks --all      # every one, after a change of x2l

They run in the checkout, so that every path on a page is relative to it, and look at the sweep of `make demo`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
PAGES = ROOT / "docs" / "notebooks"
SWEEP = Path("outputs/sweeps/demo")  # from the checkout
HEAD = """<!-- cells: {digest} -->
Written by `python -m experiments.docs.notebooks` from [{name}.ipynb](../../notebooks/{name}.ipynb); do not edit.
`make notebooks` opens it in Jupyter.

"""


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of what the cells hold: a page is of this notebook if it names the same."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    return hashlib.sha256(repr(cells).encode()).hexdigest()[:16]


def page_of(name: str) -> Path:
    """The Markdown file; its pictures lie in `NAME_files` beside it."""
    return PAGES / f"{name}.md"


def is_current(name: str) -> bool:
    """Whether a page was made of the notebook as it is."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    page = page_of(name)
    return page.exists() and f"<!-- cells: {digest(notebook)} -->" in page.read_text("utf-8")


def write(name: str) -> None:
    """Runs a notebook and writes its page."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    marked = HEAD.format(digest=digest(notebook), name=name)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(ROOT)}}).execute()
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    # Title first; a plot's text for those who do not see it is the heading that it stands below.
    title, _, below = text.lstrip().partition("\n\n")
    headings = re.split(r"(?m)^(#+ .*)$", f"{title}\n\n{marked}{below}")
    for index in range(1, len(headings), 2):
        named = f"![{headings[index].lstrip('# ')}]("
        headings[index + 1] = headings[index + 1].replace("![png](", named)
    pictures = PAGES / f"{name}_files"
    shutil.rmtree(pictures, ignore_errors=True)
    for file, data in resources["outputs"].items():
        (PAGES / file).parent.mkdir(parents=True, exist_ok=True)
        # 256 colours do for plots and small frames, in a third of the bytes.
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(PAGES / file, optimize=True)
    lines = [line.rstrip() for line in "".join(headings).splitlines()]
    page_of(name).write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes what is missing or old."""
    parser = argparse.ArgumentParser(prog="experiments.docs.notebooks", description=__doc__)
    parser.add_argument("--all", action="store_true", help="those that have not changed, too")
    options = parser.parse_args(arguments)
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    old = [name for name in names if options.all or not is_current(name)]
    if old and not (ROOT / SWEEP / "points.csv").exists():
        print(
            f"error: {SWEEP}: is not there, and a page shows it; `make demo` makes it",
            file=sys.stderr,
        )
        return 1
    PAGES.mkdir(exist_ok=True)
    os.environ |= {"X2L_OUTPUTS": "outputs", "X2L_SWEEP": str(SWEEP), "PYTHONPATH": str(ROOT)}
    for name in old:
        write(name)
        print(f"{page_of(name).relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
