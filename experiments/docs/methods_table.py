"""Writes docs/methods.md: every compressor of conf/compressor, from its docstring, what it ran on and what it takes.

    python -m experiments.docs.methods_table       # after experiments.speed.compressors; a minute

Name: its yaml. Kind and summary: the docstrings of its module and class. Papers: the arXiv numbers that its class and
the classes inside it cite. Needs: what the engine must show it. Share: experiments/results/compressors.json. Families:
each tiny random model that it has just compressed a video of, to exactly the count it was told.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import x2l.models  # noqa: F401 - before transformers: it lets the processors import

# isort: split
from hydra.utils import instantiate

from x2l.cli.compose import CONF, composed
from x2l.compressors.base import Compressor, Level
from x2l.compressors.pruning_base import Pruning

TARGET = Path(__file__).parents[2] / "docs" / "methods.md"
MEASURED = Path(__file__).parents[1] / "results" / "compressors.json"
DEVIATING = MEASURED.with_name("deviations.json")
ALL = "all"
HEAD = """# Compressors

Written by `python -m experiments.docs.methods_table`; do not edit. `x2l compressor=NAME`; settings are in
`conf/compressor/NAME.yaml`, what was adapted in the class it names. Composed methods take any pruning method, e.g.
`compressor=merge_kvs compressor@levels.low.compressor.pruner=snapkv`, and every method goes with every form of storage
(`codec=int8`, `int4`) and every budget over layers (`levels.high.layers=pyramid`). `vst` and `vst_edges` are of another
kind: KVs of extra tokens, which Video-XL alone was trained with ([models](models.md)).

Share: time of compressing one layer of one chunk over the decoder's time for it, at ratios {ratios}; a layer of
Qwen2.5-VL-7B's width, {tokens} visual tokens a chunk, fp32, {machine}, median of {chunks} chunks
(`python -m experiments.speed.compressors`). Families: those of the {families} tiny random models in tests/ whose KVs it
compressed to the exact count ("all", or which it refused).

| name | kind | what it does | settings | papers | needs | {columns} | families |
| --- | --- | --- | --- | --- | --- | {rules} | --- |
"""


DEVIATIONS = """
## Where methods are not their authors' code

Measured by `python -m experiments.docs.deviations` on {layers} chunks' layers of x2l_tiny at 2x. Budgets of `ada_kv`
and `layers=pyramid` are the authors' but for rounding: their total is exact here (tests/compressors/test_composed.py).

| name | there | here | difference |
| --- | --- | --- | --- |
| `tome` | keys averaged over heads; tokens at even places point to odd ones | heads side by side; odd places point to \
even ones | {tome:.0%} of the pairs merged here are merged there |
| `d2o` | the n-th dropped KV of all heads is recalled together; plain mean with cosine times key | the paper's rule, \
head by head, weights exp(cosine) | {d2o_recalled:.0%} of the dropped KVs are recalled by one only; merged keys differ \
by {d2o_keys:.0%} of their length |
"""


def names() -> list[str]:
    """Every yaml in conf/compressor that compresses; summary tokens take no time, and one model has them."""
    stems = sorted(path.stem for path in (CONF / "compressor").glob("*.yaml"))
    return [stem for stem in stems if isinstance(compressor(stem), Compressor)]


@cache
def compressor(name: str) -> Compressor:
    """A method as its yaml has it."""
    return instantiate(composed([f"compressor={name}"]).levels.low.compressor, _convert_="all")


def kind(method: Compressor) -> str:
    """Pruning by its class, else the first word of its module."""
    if isinstance(method, Pruning):
        return "pruning"
    return inspect.getmodule(type(method)).__doc__.split(":")[0].lower()


def summary(method: Compressor) -> str:
    """The first sentence of its class, without sources."""
    line = inspect.getdoc(type(method)).splitlines()[0]
    line = re.sub(r"\s*\([^()]*arXiv[^()]*\)|:? \w+ of [\w-]+ \(arXiv[^()]*\)", "", line)
    return re.sub(r"\.? Final\.$|\.$", "", line)


def papers(method: Compressor) -> list[str]:
    """Numbers of arXiv in the docstrings of its class and of the methods inside it, in that order."""
    classes = [type(method), *(type(part) for part in parts(method))]
    found = [re.findall(r"\b\d{4}\.\d{5}\b", inspect.getdoc(one) or "") for one in classes]
    return list(dict.fromkeys(number for numbers in found for number in numbers))


def parts(method: Compressor) -> Iterator[Compressor]:
    """The methods inside a composed one."""
    for each in dataclasses.fields(method):
        if isinstance(value := getattr(method, each.name), Compressor):
            yield value


def families(method: Compressor) -> str:
    """The tiny models that it compresses; a refusal must be one that names its reason."""
    from tests.tiny import FAMILIES, frames, ours
    from x2l.engine.prefill import prefill

    refused = []
    for family in FAMILIES:
        model = ours(family)
        try:
            store = prefill(model, model.prompt(frames(8), 4), {"high": Level(method, 3)})
        except ValueError as error:
            refused.append(f"not {family}: {error}")
            continue
        visual = [chunk.visual_tokens for chunk in store.prompt.chunks]
        assert store.kept("high") == tuple(-(-tokens // 3) for tokens in visual)
    return ALL if not refused else "; ".join(refused)


def about(name: str) -> str:
    """The columns of a method that follow from its yaml and its class."""
    method = compressor(name)
    options = composed([f"compressor={name}"]).levels.low.compressor
    settings = ", ".join(
        f"{key}: {json.dumps(value)}"
        for key, value in options.items()
        if isinstance(value, str | int | float | None) and key != "_target_"
    )
    inner = ", ".join(f"`{part.name}`" for part in parts(method))
    what = summary(method) + (f"; here with {inner}" if inner else "")
    links = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in papers(method))
    needs = ", ".join(sorted(method.needs))
    return " | ".join([f"`{name}`", kind(method), what, settings, links, needs])


def row(name: str, measured: Mapping[str, Any], ran: str) -> str:
    """One line of the table."""
    seconds = measured["methods"].get(name, {})
    shares = [
        f"{seconds[f'{ratio:g}'] / measured['decoder']:.2%}" if seconds else "-"
        for ratio in measured["ratios"]
    ]
    return f"| {' | '.join([about(name), *shares, ran])} |"


def page(measured: Mapping[str, Any], ran: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        measured: what experiments.speed.compressors wrote.
        ran: name -> last column.
    """
    from tests.tiny import FAMILIES

    ratios = [f"{ratio:g}x" for ratio in measured["ratios"]]
    head = HEAD.format(
        ratios=" and ".join(ratios),
        families=len(FAMILIES),
        columns=" | ".join(f"share {ratio}" for ratio in ratios),
        rules=" | ".join("---:" for _ in ratios),
        **{key: measured[key] for key in ("tokens", "machine", "chunks")},
    )
    order = sorted(ran, key=lambda name: (kind(compressor(name)), name))
    rows = "".join(row(name, measured, ran[name]) + "\n" for name in order)
    return head + rows + DEVIATIONS.format(**json.loads(DEVIATING.read_text()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, default=MEASURED)
    parser.add_argument("--out", type=Path, default=TARGET)
    given = parser.parse_args(arguments)
    ran = {name: families(compressor(name)) for name in names()}
    text = page(json.loads(given.measured.read_text()), ran)
    given.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
