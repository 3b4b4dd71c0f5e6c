"""Records as each of the paper's experiments would write them: its own axes, few questions, answers that are known."""

import random
from dataclasses import replace
from itertools import product

from omegaconf import OmegaConf

from experiments.paper import make
from tests.synthetic import record
from x2l.cli.compose import CONF
from x2l.runs.condition import LevelSpec

FIELDS = {
    "compressor": "compressor",
    "levels.high.ratio": "ratio_high",
    "levels.low.ratio": "ratio_low",
    "codec": "codec",
    "prefill.context": "context",
    "prefill.positions": "positions",
    "prefill.chunk_frames": "chunk_frames",
    "benchmark.seconds": "duration",
    "video.frames": "frames",
}
PRUNED = {"random_pruning": "random", "uniform_pruning": "uniform"}
BOUNDS = ("oracle", "random_as_oracle", *(f"hit_rate_{rate}" for rate in (25, 50, 70, 100)))
TRUE = ("all", "oracle", "hit_rate_100")  # always right here; all-high never is, others by chance


def of(name, videos=4, questions=2):
    """All records of an experiment."""
    found = []
    for command in make.commands(name):
        settings = _settings(command)
        for values in product(*settings["axes"].values()):
            job = dict(zip(settings["axes"], values, strict=True))
            found += _of_job(settings, job, videos, questions)
    return found


def needs_truth(name):
    """Whether any cell of an experiment has to know where answers lie."""
    return any(r.condition.role == "bound" for r in of(name, 1, 1))


def without_spans(name):
    """The same from a set that does not say where answers lie."""
    kept = [r for r in of(name) if r.condition.role != "bound"]
    unknown = {"recall": None, "precision": None, "hit": None}
    return [
        replace(
            record,
            question=replace(record.question, gt_chunks=None),
            selection=replace(record.selection, **unknown),
        )
        for record in kept
    ]


def _settings(command):
    config = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{command.name}.yaml"))
    axes = {key: _values(value) for key, value in config["hydra"]["sweeper"]["params"].items()}
    selectors = next(
        d["override /selector"] for d in config["defaults"] if "override /selector" in d
    )
    selectors = [selectors] if isinstance(selectors, str) else selectors
    top_k = config.get("top_k", 2)
    axes |= {"selector": [*selectors, *config.get("selector", {})]}
    axes |= {"top_k": top_k if isinstance(top_k, list) else [top_k]}
    for word in command.words[2:]:
        key, given, value = word.partition("=")
        if given:
            axes[key] = value.strip("[]").split(",") if key == "selector" else _values(value)
    cells = {"selectors": axes.pop("selector"), "top_k": axes.pop("top_k")}
    return {**cells, "axes": axes, "label": command.label}


def _values(text):
    if not isinstance(text, str):
        return [text]
    return (
        ["[]", "[first,last]"]
        if text == "[],[first,last]"
        else [text]
        if "[" in text
        else text.split(",")
    )


def _of_job(settings, job, videos, questions):
    fields = {FIELDS[key]: value for key, value in job.items() if key in FIELDS}
    if job.get("prefill") == "paper":
        fields |= {"context": "own", "positions": "compact", "chunk_frames": 10}
    control = job.get("control", "none")
    compressor = PRUNED.get(control, fields.pop("compressor"))
    ratios = {"low": float(fields.pop("ratio_low", 2)), "high": float(fields.pop("ratio_high", 32))}
    if (mid := job.get("levels.mid", "null")) != "null":
        ratios = {"low": ratios["low"], "mid": float(mid), "high": ratios["high"]}
    codec = fields.pop("codec", "none")
    fields["levels"] = tuple(LevelSpec(*level, compressor, codec) for level in ratios.items())
    numbers = {"duration": 128, "frames": 128, "chunk_frames": 8}
    fields |= {key: int(fields.get(key, start)) for key, start in numbers.items()}
    pinned = ("first", "last") if job.get("selection.pinned") == "[first,last]" else ()
    fewer_frames = control.startswith("equal_")
    fields["scene"] = job.get("benchmark.scene", "plain")
    fields["run_id"] = f"{settings['label']}-{sorted(job.items())}"
    for selector in ["none"] if fewer_frames else settings["selectors"]:
        single_level = None if fewer_frames else {"all": "low", "none": "high"}.get(selector)
        for k in [None] if single_level else settings["top_k"]:
            cell = {"selector": selector, "single_level": single_level, "top_k": k}
            cell |= {
                "control": control if fewer_frames else None,
                "role": _role(selector, k),
            }
            cell |= {"pinned": () if single_level else pinned}
            for video, question in product(range(videos), range(questions)):
                yield _record(fields, cell, video, question)


def _role(selector, k):
    if selector in ("all", "none", "random", "uniform", "first_last", "last"):
        return "control"
    return "bound" if selector in BOUNDS or k == "gt" else "method"


def _number(k, chunks):
    """Chunks that a top_k re-loads; of a budget about what it pays for."""
    if isinstance(k, str):
        return 2 if k == "gt" else int(chunks * float(k.removesuffix("%")) / 100)
    return k or 0


def _record(fields, cell, video, question):
    scene = fields["scene"]
    fields = {name: value for name, value in fields.items() if name != "scene"}
    levels, selector, k = fields["levels"], cell["control"] or cell["selector"], cell["top_k"]
    finest, coarsest = levels[0].ratio, levels[-1].ratio
    chunks = -(-fields["frames"] // fields["chunk_frames"])
    low = {"all": chunks, "none": 0}.get(
        selector, min(chunks, _number(k, chunks) + len(cell["pinned"]))
    )
    bits = {"none": 1, "int8": 0.53, "int4": 0.28}[levels[0].codec]
    share = bits * (low / chunks / finest + (1 - low / chunks) / coarsest)
    chance = random.Random(f"{levels[0].method} {selector} {k} {video} {question}").random()
    whole = finest == coarsest == 1
    right = selector in TRUE or whole or (selector != "none" and chance < 0.5)
    hit = selector in TRUE or (selector.startswith("hit_rate") and chance < int(selector[9:]) / 100)
    place = f"needle-{fields['duration']}/v{video}" + ("-crowded" if scene == "crowded" else "")
    return record(
        **fields,
        **cell,
        video_id=place,
        sample_id=f"{place}/q{question}",
        tags={"kind": scene},
        frames_sampled=fields["frames"],
        correct=float(right),
        hit=float(hit),
        gt_chunks=((3 * video + question) % chunks,),
        assigned=("high",) * chunks,
        kv_bytes_full=1000 * fields["frames"],
        kv_bytes_stored=int(1000 * fields["frames"] * share) + 200,
    )
