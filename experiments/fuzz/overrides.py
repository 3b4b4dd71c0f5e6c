"""Every key of the configuration with ten wrong values, of the defaults and of each file of every group."""

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from experiments.fuzz.run import Ending, spread
from x2l import UserError
from x2l.cli.compose import CONF, build, build_benchmark, composed, engine, plain
from x2l.evaluation.conditions import cells
from x2l.evaluation.settings import config_errors

WRONG = ("null", "true", "-1", "0.5", "nan", "word", "[]", "[1,x]", "{a:1}", "99999999999")
GROUPS = ("benchmark", "compressor", "codec", "selector", "tracker", "prefill", "control")
# What else than its default's kind a key may be; of a key whose default is null, what it may be at all.
MORE = {
    "model.device": {"null"},
    "model.device_map": {"text", "map"},
    "selector.retriever.device": {"null"},
    "selector.retrieval_heads.null_question": {"null"},
    "model.revision": {"text"},
    "model.video_processor": {"map"},
    "video.frames": {"null"},
    "video.fps": {"null"},
    "levels": {"map"},
    "levels.low": {"number", "null"},
    "levels.high": {"number", "null"},
    "layers": {"text", "list"},
    "codec": {"null", "map"},
    "prefill.cache": {"text"},
    "video.cache": {"text"},
    "top_k": {"text", "list"},
    "limit": {"number"},
    "selection.taking": {"list"},
    "selection.pinned": {"text"},
    "selection.top_k_by_task": {"map", "list"},
    "selection.tuned_on": {"text"},
    "tracker.mode": {"text"},
    "tasks": {"text", "null", "list"},
    "kinds": {"text"},
}


def kind(value: Any) -> str:
    """In a word."""
    if value is None:
        return "null"
    kinds = {bool: "flag", int: "number", float: "number", str: "text", list: "list", dict: "map"}
    return kinds[type(value)]


def leaves(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key by its whole name, groups included."""
    for key, value in values.items():
        name = f"{at}.{key}" if at else str(key)
        yield name, value
        if isinstance(value, dict):
            yield from leaves(value, name)


def try_out(overrides: list[str]) -> None:
    """All that `x2l` does before it loads the model."""
    made, config = engine(overrides), composed(overrides)
    build_benchmark(config)
    with config_errors(), tempfile.TemporaryDirectory() as folder:
        build(config.tracker, "tracker")(folder=folder, run_id="a", name="b", group="c", config={})
        made.settings.check_chunks()
        cells(made.selectors, made.settings, "a", "b")


def cases(share: float) -> Iterator[Ending]:
    """Every wrong value of every key once."""
    bases = [
        [],
        *([f"{g}={path.stem}"] for g in GROUPS for path in sorted((CONF / g).glob("*.yaml"))),
    ]
    seen, tries = set(), []
    for base in bases:
        values = plain(composed(base))
        for key, default in leaves(values):
            target = key.rpartition(".")[0]
            known = (
                key,
                str(
                    OmegaConf.select(OmegaConf.create(values), f"{target}._target_")
                    if target
                    else ""
                ),
            )
            if key.startswith(("compressor", "codec")) or known in seen:
                continue
            seen.add(known)
            tries += [(base, key, default, wrong) for wrong in WRONG]
    for base, key, default, wrong in spread(tries, share):
        override = f"{key}={wrong}"
        try:
            try_out([*base, override])
        except UserError as error:
            multiline = "\n" in str(error)
            yield " ".join([*base, override]), "several lines" if multiline else "refused"
        except Exception as error:
            yield " ".join([*base, override]), f"{type(error).__name__}: {error}"
        else:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"a={wrong}"]))["a"]
            allowed = {kind(default), *MORE.get(key, ()), *MORE.get(key.rpartition(".")[2], ())}
            fine = kind(value) in allowed or kind(default) == "null"
            yield " ".join([*base, override]), "read" if fine else f"taken for {default!r}"
