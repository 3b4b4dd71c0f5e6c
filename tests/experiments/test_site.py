"""The site of `make docs`, and the pages of notebooks in it."""

import re
import shutil
import subprocess
import sys

import pytest

from experiments.docs import site
from experiments.docs.notebooks import NOTEBOOKS, PAGES, is_current, page_of
from experiments.docs.site import PAPER, ROOT, STYLE

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
COMMAND = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([*COMMAND, folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_it_has_reference_gallery_and_sources_and_loads_nothing_from_elsewhere(built):
    library = (built / "reference/library.html").read_text()
    assert all(f'id="x2l.{name}"' in library for name in ("load", "prefill", "answer", "Level"))
    classes = (built / "reference/classes.html").read_text()
    assert 'id="x2l.selectors.ChunkSelector.relevance"' in classes
    gallery = (built / "gallery.html").read_text()
    figures = re.findall(r"!\[.*?\]\((figures/\S+?)\)", (ROOT / PAPER).read_text())
    assert len(figures) > 10 and all(f"paper/{figure}" in gallery for figure in figures)
    assert "Commands" in gallery and "experiment=paper_main" in re.sub(r"<[^>]+>", "", gallery)
    assert "max_new_tokens" in (built / "conf/config.yaml.html").read_text()
    loaded = re.compile(r"(?:<script|<img|<link rel=.stylesheet.)[^>]*(?:src|href)=.https?:")
    assert not any(loaded.search(page.read_text()) for page in built.rglob("*.html"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("link", "fault"),
    [("code.py", ""), ("other.md#here", ""), ("gone.md", "gone.md"), ("other.md#gone", "#gone")],
)
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path, link, fault):
    """A small repository of its own, with the hook and the settings of this one."""
    (tmp_path / "experiments/docs").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    shutil.copy(site.__file__, tmp_path / "experiments/docs/site.py")
    shutil.copy(ROOT / STYLE, tmp_path / STYLE)
    settings = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n  - Start")[0]
    (tmp_path / "mkdocs.yml").write_text(f"{settings}\nnav: [README.md, other.md]\n")
    (tmp_path / "README.md").write_text(f"# One\n\n[link]({link})\n")
    (tmp_path / "other.md").write_text("# Other\n\n## Here\n")
    (tmp_path / "code.py").write_text("print()\n")
    done = subprocess.run([*COMMAND, "site"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == bool(fault), done.stderr
    assert fault in done.stderr and (tmp_path / "site/code.py.html").exists() == (link == "code.py")


def test_links_lead_to_the_pages_that_show_files_and_folders():
    shown = site.relinked(
        "[a](../conf/config.yaml#b) [c](launchers/README.md) [d](../notebooks) [e](https://x.y)\n"
        "```\n[f](../conf/config.yaml)\n```\n",
        "docs/settings.md",
    )
    assert shown == (
        "[a](../conf/config.yaml.md#b) [c](launchers/README.md) [d](../notebooks/index.md) "
        "[e](https://x.y)\n```\n[f](../conf/config.yaml)\n```\n"
    )


def test_lists_and_tables_are_as_git_hosts_read_them():
    text = "Two:\n- a\n- b\n\n| `x\\|y` | z\\|w |\n"
    assert site.relinked(text, "README.md") == "Two:\n\n- a\n- b\n\n| `x|y` | z\\|w |\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_notebook_is_of_its_cells_and_has_its_plots(name):
    assert is_current(name), "python -m experiments.docs.notebooks"
    text = page_of(name).read_text()
    plots = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert plots and all((PAGES / plot).exists() for plot in plots)
    assert str(ROOT) not in text
