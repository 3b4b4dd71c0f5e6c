"""The page of all experiments: figure, commands, finding and provenance of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.paper.kit.output import Result
from x2l.runs.run_info import RUN

HEAD = """# The experiments of Video-X²L, run with x2l

Written by `make paper` (`python -m experiments.paper.make`); do not edit. Each experiment is a pair:
`conf/experiment/NAME.yaml` runs it, `experiments/paper/figures/NAME.py` draws it. Shown here: {what}. At this size
the page shows that every experiment runs and how it reads, not what the paper's models do; the commands for a
real checkpoint and the published sets are at the top of each yaml.

**No number of the paper's tables or figures was available, so none is shown.** What is grey and hollow was
reported by the paper's authors elsewhere (a notebook, logs), of other models on other sets: it is there to
compare shapes, labelled, with its source below the figure. Accuracies come with 95 % intervals clustered by
video, differences are paired by question; marks over one value stand a little side by side. Each finding is a
sentence filled in with numbers of the records.

{provenance}
"""


@dataclass(frozen=True)
class Shown:
    """One experiment on the page.

    Attributes:
        name: of its yaml.
        result: what its module made of the records.
        commands: what was run.
        runs: folders of its runs.
        problems: what is not finished.
    """

    name: str
    result: Result
    commands: tuple[str, ...]
    runs: Sequence[Path]
    problems: tuple[str, ...] = ()


def page(shown: Sequence[Shown], missing: Sequence[str] = ()) -> str:
    """The whole page as Markdown.

    Args:
        shown: in the order of the page.
        missing: experiments without records, and what is not finished.
    """
    found = [run / RUN for one in shown for run in one.runs]
    infos = [json.loads(path.read_text()) for path in found if path.exists()]
    parts = [HEAD.format(what=_what(infos), provenance=_provenance(infos))]
    if missing:
        parts.append("Not there, or not finished:\n\n" + "".join(f"- {line}\n" for line in missing))
    contents = [f"- [{one.result.title}](#{_anchor(one.result.title)})\n" for one in shown]
    parts.append("".join(contents))
    return "\n".join([*parts, *map(_section, shown)])


def _section(one: Shown) -> str:
    result = one.result
    files = f"[table](tables/{one.name}.md) · [PDF](figures/{one.name}.pdf) · [LaTeX](tables/{one.name}.tex)"
    lines = [
        f"## {result.title}",
        "",
        *_unfinished(one.problems),
        result.finding,
        "",
        f"![{result.title}](figures/{one.name}.png)",
        "",
        files,
        "",
        "```sh",
        *one.commands,
        "```",
        "",
    ]
    return "\n".join(lines + [f"{note}\n" for note in result.notes])


def _unfinished(problems: Sequence[str]) -> list[str]:
    """The mark of an experiment that is drawn of a part of its answers."""
    lines = [
        "**Not finished; drawn of the answers that there are:**",
        "",
        *(f"- {p}" for p in problems),
        "",
    ]
    return lines if problems else []


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    kept = (c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
    return "".join(kept)


def _what(infos: Sequence[dict[str, Any]]) -> str:
    """Models and videos, as the runs say."""
    configs = [info["config"] for info in infos]
    models = _several(config["model"]["name_or_path"] for config in configs)
    videos = sorted({config["benchmark"].get("videos", 0) for config in configs})
    sets = _several(config["benchmark"]["_target_"].split(".")[-1].lower() for config in configs)
    if not videos:
        return "nothing"
    span = f"{videos[0]} to {videos[-1]}" if videos[1:] else f"{videos[0]}"
    return f"{models} on {sets} ({span} videos an experiment)"


def _provenance(infos: Sequence[dict[str, Any]]) -> str:
    """Commits, versions and machine of the runs."""
    if not infos:
        return ""
    known = [i for i in infos if i["commit"]]
    commits = _several(
        f"{i['commit'][:7]}{' with changes not committed' if i['dirty'] else ''}" for i in known
    )
    told = [f"{len(known)} at commit {commits}"] if known else []
    if unknown := [i for i in infos if not i["commit"]]:
        code = _several(i["code"] for i in unknown)
        told.append(
            f"{len(unknown)} outside a git checkout, so at no known commit (source files: {code})"
        )
    versions = [
        f"{name} {_several(i['versions'][name] for i in infos)}"
        for name in ("torch", "transformers")
    ]
    threads = ", ".join(str(n) for n in sorted({i["cpu_threads"] for i in infos}))
    return (
        f"Runs: {len(infos)}, {'; '.join(told)}; {', '.join(versions)}; {_several(i['processor'] for i in infos)}; "
        f"CPU threads a run: {threads}; FLOPs and bytes are closed forms, seconds were measured."
    )


def _several(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
