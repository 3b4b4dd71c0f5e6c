"""What `mkdocs` is told of pages that do not lie in docs/ (a hook of mkdocs.yml).

Pages are the repository's Markdown files under their own paths, from those in the navigation on along their links, so
that every link means the same here and where the repository is shown. A link to a source file leads to a page that
shows it, one to a folder to a list of its files. The reference is made of what the packages export, the gallery of the
pages that show figures.
"""

from __future__ import annotations

import ast
import importlib
import posixpath
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

import x2l

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")
LIST = re.compile(r"^((?!- |  ).+)\n(?=- )", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")
OUTSIDE = re.compile(r"[a-z]+:|/")
SHOWN = {  # sources that become pages, and their language
    **{".py": "python", ".yaml": "yaml", ".cff": "yaml", ".toml": "toml", ".sh": "sh"},
    **{"": "text", ".txt": "text", ".j2": "jinja", ".js": "javascript"},
}
UNLISTED = "---\nsearch:\n  exclude: true\n---\n\n"
DOCS = ROOT / "docs"
STYLE = "docs/site.css"
PICTURES = ("curve", "heads")  # of x2l.plot
GRID = '<div class="gallery" markdown>'
PAPER = "experiments/results/paper/README.md"


# --- what mkdocs calls -----------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and the pages."""
    themes = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*themes, *_pages(config)])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to sources and folders lead to the pages that show them."""
    return relinked(markdown, page.file.src_uri)


# --- pages along the links -------------------------------------------------------------------------------------------


def _pages(config: MkDocsConfig) -> Iterator[File]:
    made: dict[str, Callable[[], str]] = {
        "reference/library.md": _library,
        "reference/classes.md": _classes,
        "gallery.md": _gallery,
    }
    ahead = [*_navigation(config.nav), STYLE]
    known = set(ahead)
    while ahead:
        place = ahead.pop()
        path = ROOT / place
        if place in made:
            text: str | None = made[place]()
        elif path.is_dir():
            text = _listing(path, place)
        elif path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
        elif path.suffix in SHOWN:
            text = _source(path, place)
        else:
            text = None
        if text is None:
            yield File.generated(config, place, abs_src_path=str(path))
            continue
        yield File.generated(config, _page_of(place), content=text)
        targets = {_joined(place, link[2]) for link in LINK.finditer(_prose(text))} - {None}
        missing = {target for target in targets if not (ROOT / target).exists()}
        new = targets - known - missing - made.keys()  # mkdocs tells of what is missing
        known |= new
        ahead += sorted(new)


def _navigation(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
        return
    for entry in entries.values() if isinstance(entries, dict) else entries:
        yield from _navigation(entry)


def _joined(place: str, link: str) -> str | None:
    """The path in the repository that a link of a page means; None outside of it."""
    if OUTSIDE.match(link):
        return None
    folder = place if (ROOT / place).is_dir() else posixpath.dirname(place)
    target = posixpath.normpath(posixpath.join(folder, link))
    readme = posixpath.join(target, "README.md")
    return readme if (ROOT / readme).exists() else target


def _page_of(place: str) -> str:
    """The name of the page that shows a file or a folder."""
    path = ROOT / place
    if place.endswith(".md"):
        return place
    return f"{place}/index.md" if path.is_dir() else f"{place}.md"


def relinked(markdown: str, page: str) -> str:
    """Markdown of a page as the site has it.

    Args:
        markdown: as it lies in the repository.
        page: its place there, e.g. `docs/settings.md`.
    """
    place = (
        page.removesuffix("/index.md") if (ROOT / page.removesuffix("/index.md")).is_dir() else page
    )

    def target(match: re.Match[str]) -> str:
        joined = _joined(place, match[2])
        if joined is None or not (ROOT / joined).exists():
            return match[0]
        path = ROOT / joined
        if path.is_dir() or (path.suffix in SHOWN and path.suffix != ".md"):
            joined = _page_of(joined)
        link = posixpath.relpath(joined, posixpath.dirname(page) or ".")
        return f"{match[1]}{link}{match[3] or ''})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else LINK.sub(target, _for_python_markdown(part))
        for part in parts
    )


def _for_python_markdown(text: str) -> str:
    r"""Two things that Git hosts read otherwise: a list right below a paragraph, and `a\|b` in a table."""
    text = LIST.sub(r"\1\n\n", text)
    return re.sub(
        r"^\|.*\\\|.*$", lambda row: CODE.sub(_unescaped, row[0]), text, flags=re.MULTILINE
    )


def _unescaped(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")


def _prose(markdown: str) -> str:
    return re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)


def _source(path: Path, place: str) -> str:
    text = path.read_text(encoding="utf-8").rstrip("\n")
    return f"{UNLISTED}# {place}\n\n``````{SHOWN[path.suffix]}\n{text}\n``````\n"


def _listing(path: Path, place: str) -> str:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    return f"{UNLISTED}# {place}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)


# --- pages that no file holds ----------------------------------------------------------------------------------------


def _library() -> str:
    first = ["load", "read_frames", "open_frames", "prefill", "answer", "Reply", "Level"]
    then = [name for name in x2l.__all__ if name not in (*first, "plot")]
    drawn = "x2l.analysis.plot"
    parts = ["# The library", x2l.__doc__ or "", *(f"::: x2l.{name}" for name in first + then)]
    parts += ["## x2l.plot", _docstring("x2l/analysis/plot.py")]
    parts += [f"::: {drawn}.{name}\n    options:\n      heading_level: 3" for name in PICTURES]
    return "\n\n".join(parts) + "\n"


def _classes() -> str:
    parts = [
        "# Classes to build on",
        "A method or a benchmark of your own is a subclass of one of these.",
    ]
    for package in ("compressors", "selectors", "benchmarks"):
        names = importlib.import_module(f"x2l.{package}").__all__
        parts += [f"## x2l.{package}", _docstring(f"x2l/{package}/__init__.py")]
        parts += [
            f"::: x2l.{package}.{name}\n    options:\n      heading_level: 3"
            for name in names
            if name not in x2l.__all__  # on the page of the library
        ]
    return "\n\n".join(parts) + "\n"


def _docstring(place: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / place).read_text(encoding="utf-8"))) or ""


def _gallery() -> str:
    parts = [
        "# Gallery",
        "## The paper's experiments",
        "With the commands that make their answers.",
    ]
    parts += [GRID]
    figures = set()
    for title, text in _sections(PAPER):
        picture = re.search(r"!\[[^\]]*\]\(([^)]+)\)", text)
        commands = re.search(r"^```sh\n.*?^```$", text, re.MULTILINE | re.DOTALL)
        if picture and commands:
            figures.add(figure := _joined(PAPER, picture[1]))
            details = f'??? note "Commands"\n\n{textwrap.indent(commands[0], "    ")}'
            parts += _card(title, str(figure), PAPER, details)
    parts += ["</div>", "## Other figures", "With the section that says what they show.", GRID]
    for page in [
        "README.md",
        *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.glob("*.md")),
    ]:
        for title, text in _sections(page):
            for link in LINK.finditer(_prose(text)):
                figure = _joined(page, link[2])
                if figure and figure.endswith(".png") and figure not in figures:
                    figures.add(figure)
                    parts += _card(title, figure, page, "")
    return "\n\n".join([*filter(None, parts), "</div>"]) + "\n"


def _sections(page: str) -> Iterator[tuple[str, str]]:
    """Headings of a page and what stands below each, down to the next one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.sub(r"^```.*?^```$", lambda m: m[0].replace("\n#", "\n\0"), text, flags=re.M | re.S)
    for section in re.split(r"^#+ ", fenced, flags=re.MULTILINE)[1:]:
        title, _, below = section.partition("\n")
        yield title, below.replace("\n\0", "\n#")


def _card(title: str, figure: str, page: str, below: str) -> list[str]:
    anchor = slugify(case="lower")(re.sub(r"[`*]", "", title), "-")
    head = f"**[{title}]({page}#{anchor})**"
    return ["<div markdown>", head, f"[![{title}]({figure})]({figure})", below, "</div>"]
