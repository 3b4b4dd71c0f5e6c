"""The page of all experiments: figure, commands, finding and provenance of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.paper.answers import Answers
from experiments.paper.kit.output import Result

HEAD = """# The experiments of Video-X²L, run with x2l

Written by `make paper` (`python -m experiments.paper.make`); do not edit. Each experiment is a pair:
`conf/experiment/NAME.yaml` runs it, `experiments/paper/figures/NAME.py` says what is drawn; `answers/NAME.json.xz`
holds every answer that the figure is drawn of, so that it can be drawn again without the runs (`--draw`).

Shown here: {what}. At this size the page shows that every experiment runs and how it reads, not what the paper's
models do; the commands for a real checkpoint and the published sets are at the top of each yaml.

**No number of the paper's tables or figures was available, so none is shown.** What is grey and hollow was
reported by the paper's authors elsewhere (a notebook, logs), of other models on other sets: it is there to
compare shapes, labelled, with its source below the figure. Accuracies come with 95 % intervals clustered by
video, differences are paired by question; marks over one value stand a little side by side. Each finding is a
sentence filled in with numbers of the records.

{provenance}
"""


@dataclass(frozen=True)
class Shown:
    """One experiment on the page: name of its yaml, the answers, and what was made of them."""

    name: str
    result: Result
    answers: Answers


def page(shown: Sequence[Shown], missing: Sequence[str] = ()) -> str:
    """The whole page as Markdown.

    Args:
        shown: in the order of the page.
        missing: experiments without answers, and what is not finished.
    """
    runs = [run for entry in shown for run in entry.answers.runs]
    parts = [HEAD.format(what=_what(runs), provenance=_provenance(runs))]
    if missing:
        parts.append("Not there, or not finished:\n\n" + "".join(f"- {line}\n" for line in missing))
    titles = [entry.result.title for entry in shown]
    parts.append("".join(f"- [{title}](#{_anchor(title)})\n" for title in titles))
    return "\n".join([*parts, *map(_section, shown)])


def _section(entry: Shown) -> str:
    result, name = entry.result, entry.name
    problems = [f"- {problem}" for problem in entry.answers.problems]
    if problems:
        problems = ["**Not finished; drawn of the answers that there are:**", "", *problems, ""]
    files = f"[table](tables/{name}.md) · [PDF](figures/{name}.pdf) · [LaTeX](tables/{name}.tex)"
    picture = f"![{result.title}](figures/{name}.png)"
    lines = [f"## {result.title}", "", *problems, result.finding, "", picture, "", files, ""]
    lines += ["```sh", *entry.answers.commands, "```", ""]
    return "\n".join(lines + [f"{note}\n" for note in result.notes])


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _what(runs: Sequence[Mapping[str, Any]]) -> str:
    """Models and videos, as the runs say."""
    videos = sorted({run["videos"] for run in runs})
    if not videos:
        return "nothing"
    models, sets = (_several(run[name] for run in runs) for name in ("model", "benchmark"))
    span = f"{videos[0]} to {videos[-1]}" if videos[1:] else f"{videos[0]}"
    return f"{models} on {sets} ({span} videos an experiment)"


def _provenance(runs: Sequence[Mapping[str, Any]]) -> str:
    """Commits, versions and machine of the runs."""
    if not runs:
        return ""
    known, unknown = [r for r in runs if r["commit"]], [r for r in runs if not r["commit"]]
    words = []
    if known:
        dirty = {True: " with changes not committed", False: "", None: ""}
        commits = _several(f"{run['commit'][:7]}{dirty[run['dirty']]}" for run in known)
        words.append(f"{len(known)} at commit {commits}")
    if unknown:
        code = _several(run["code"] for run in unknown)
        words.append(
            f"{len(unknown)} outside a git checkout, so at no known commit (source files: {code})"
        )
    versions = [
        f"{name} {_several(r['versions'][name] for r in runs)}"
        for name in ("torch", "transformers")
    ]
    threads = _several(str(run["cpu_threads"]) for run in runs)
    return (
        f"Runs: {len(runs)}, {'; '.join(words)}; {', '.join(versions)}; {_several(r['processor'] for r in runs)}; "
        f"CPU threads a run: {threads}; FLOPs and bytes are closed forms, seconds were measured."
    )


def _several(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
