"""Records as each of the paper's experiments would write them: its own axes, few questions, answers that are known."""

import random
from itertools import product

from omegaconf import OmegaConf

from experiments import paper
from tests.synthetic import record
from x2l.cli.compose import CONF

FIELDS = {
    "compressor": "compressor",
    "levels.high.ratio": "ratio_high",
    "levels.low.ratio": "ratio_low",
    "prefill.context": "context",
    "prefill.positions": "positions",
    "prefill.chunk_frames": "chunk_frames",
    "benchmark.seconds": "duration",
    "video.frames": "frames",
}
PRUNED = {"random_pruning": "random", "uniform_pruning": "uniform"}
TRUE = ("all", "oracle", "hit_rate_100")  # always right here; all-high never is, others by chance
TOLD = ("oracle", "hit_rate", "random_as_oracle")


def of(name, videos=4, questions=2):
    """All records of an experiment."""
    found = []
    for command in paper.commands(name):
        settings = _settings(command)
        for values in product(*settings["axes"].values()):
            job = dict(zip(settings["axes"], values, strict=True))
            found += _of_job(settings, job, videos, questions)
    return found


def told(name):
    """Whether any cell of an experiment has to know where answers lie."""
    return any(r.selector.startswith(TOLD) or r.top_k == "gt" for r in of(name, 1, 1))


def without_spans(name):
    """The same from a set that does not say where answers lie."""
    kept = [r for r in of(name) if not r.selector.startswith(TOLD)]
    unknown = {"gt_chunks": None, "recall": None, "precision": None, "hit": None}
    return [record(**{**r.__dict__, **unknown}) for r in kept if r.top_k != "gt"]


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
        key, _, value = word.partition("=")
        axes[key] = _values(value)
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
    if (mid := job.get("levels.mid", "null")) != "null":
        fields |= {"ratios_between": {"mid": float(mid)}}
    numbers = {
        "ratio_high": 32.0,
        "ratio_low": 2.0,
        "duration": 128,
        "frames": 128,
        "chunk_frames": 8,
    }
    fields |= {key: type(start)(fields.get(key, start)) for key, start in numbers.items()}
    control = job.get("control", "none")
    fields["compressor"] = PRUNED.get(control, fields["compressor"])
    pinned = ("first", "last") if job.get("selection.pinned") == "[first,last]" else ()
    selectors = ["fewer_frames"] if control == "fewer_frames" else settings["selectors"]
    run = f"{settings['label']}-{sorted(job.items())}"
    for selector in selectors:
        alone = selector in ("all", "none")
        for k in [None] if alone else settings["top_k"]:
            for video, question in product(range(videos), range(questions)):
                yield _record(run, fields, selector, k, () if alone else pinned, video, question)


def _number(k, chunks):
    """Chunks that a top_k re-loads; of a budget about what it pays for."""
    if isinstance(k, str):
        return 2 if k == "gt" else int(chunks * float(k.removesuffix("%")) / 100)
    return k or 0


def _record(run, fields, selector, k, pinned, video, question):
    chunks = -(-int(fields["frames"]) // fields["chunk_frames"])
    low = {"all": chunks, "none": 0}.get(selector, min(chunks, _number(k, chunks) + len(pinned)))
    share = low / chunks / fields["ratio_low"] + (1 - low / chunks) / fields["ratio_high"]
    chance = random.Random(f"{fields['compressor']} {selector} {k} {video} {question}").random()
    whole = fields["ratio_low"] == fields["ratio_high"] == 1
    right = selector in TRUE or whole or (selector != "none" and chance < 0.5)
    hit = selector in TRUE or (selector.startswith("hit_rate") and chance < int(selector[9:]) / 100)
    place = f"needle-{fields['duration']}/v{video}"
    return record(
        **fields,
        run_id=run,
        video_id=place,
        sample_id=f"{place}/q{question}",
        selector=selector,
        top_k=k,
        pinned=pinned,
        correct=float(right),
        hit=float(hit),
        gt_chunks=((3 * video + question) % chunks,),
        kept_high=(2,) * chunks,
        kept_low=(32,) * chunks,
        kv_bytes_full=1000 * int(fields["frames"]),
        kv_bytes_resident=int(1000 * fields["frames"] * share) + 200,
    )
