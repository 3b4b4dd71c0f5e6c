"""Summary tokens with all else that there is: forms of storage, selectors, ladders, budgets, the cache, x2l-ask."""

import json
from dataclasses import replace

import pytest
import torch

import x2l
from tests.cli.test_run import SMALL
from tests.cli.test_run import x2l as in_a_process
from tests.engine.test_flops import counter
from tests.tiny import ours
from tests.video_xl import checkpoint, frames, loaded, official_prompt
from x2l.analysis.report.build import write_report
from x2l.cli.ask import command as ask
from x2l.cli.compose import engine
from x2l.compressors.base import Level
from x2l.compressors.clustering import KMeans
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import Quantised
from x2l.compressors.summary_tokens import SummaryTokens
from x2l.engine.context_length import ContextError
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.flops import kv_bytes
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.evaluation.budgets import budget_bytes
from x2l.evaluation.settings import ConfigError
from x2l.models.kv_cache import BufferLayer
from x2l.runs.rows import rows as rows_of
from x2l.selectors.attention import AttentionSelector
from x2l.selectors.embedding import EmbeddingSelector
from x2l.selectors.keys import KeysSelector
from x2l.video import write_video

VST = SummaryTokens()
PAPER = {"chunk_frames": 10, "context": "own", "positions": "compact"}
MIXED = {"low": Level(VST, 2), "high": Level(KMeans(), 32)}
LADDER = {
    "low": Level(VST, 2),
    "mid": Level(SummaryTokens(2), 8, Quantised(8, 16)),
    "high": Level(VST, 32, Quantised(4, 16)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("video_xl"))


@pytest.fixture(scope="module")
def model(folder):
    return loaded(folder, "float32")


def stored(session, level):
    return [
        torch.cat([layer.decode().keys.flatten() for layer in kv.layers])
        for kv in session.store.levels[level]
    ]


def test_levels_of_both_kinds_stand_side_by_side(model):
    """Each is what it is alone: the other kind runs a pass of its own."""
    mixed = x2l.prefill(model, frames(34), MIXED, **PAPER)
    alone = x2l.prefill(model, frames(34), {**MIXED, "high": Level(VST, 32)}, **PAPER)
    pooled = x2l.prefill(model, frames(34), {**MIXED, "low": Level(KMeans(), 2)}, **PAPER)
    assert all(map(torch.equal, stored(mixed, "low"), stored(alone, "low")))
    assert all(map(torch.equal, stored(mixed, "high"), stored(pooled, "high")))
    assert mixed.store.kept("low") == (80, 80, 80, 32) and mixed.store.kept("high") == (5, 5, 5, 2)


@pytest.mark.parametrize("top_k", ["1+2", "40%"])
@pytest.mark.parametrize("selector", [AttentionSelector(), EmbeddingSelector(), KeysSelector()])
def test_selectors_ladders_budgets_and_codecs(model, selector, top_k):
    session = x2l.prefill(model, frames(34), LADDER, **PAPER)
    reply = x2l.answer(session, "What?", selector, top_k, max_new_tokens=3)
    assert len(reply.relevance) == 4 and len(set(reply.assigned)) > 1
    store = session.store
    of_chunks = (store.stored_bytes(level)[i] for i, level in enumerate(reply.assigned))
    assert reply.kv_bytes_stored == store.prefix.stored_bytes + sum(of_chunks)
    assert store.prefix.nbytes == kv_bytes(model.shape, store.prompt.prefix)
    assert [session.store.measured_ratio(level) for level in LADDER] == [2, 544 / 152, 32]


@pytest.mark.parametrize("top_k", [0, 2, 4])
def test_bytes_are_known_before_the_prefill(model, top_k):
    prompt = official_prompt(model, 34)
    store = prefill(model, prompt, LADDER, "own", "compact")
    assigned = ["low" if chunk < top_k else "high" for chunk in range(4)]
    two = {name: level for name, level in LADDER.items() if name != "mid"}
    assert budget_bytes(model, prompt, two, top_k, ()) == store.mix(assigned).nbytes


def test_flops_match_the_counter_and_no_buffer_is_doubled(model, monkeypatch):
    grown = []
    reserve = BufferLayer.reserve
    monkeypatch.setattr(
        BufferLayer, "reserve", lambda layer, n: grown.append(n) or reserve(layer, n)
    )
    prompt, meter = official_prompt(model, 34), Meter()
    with counter() as counted:
        prefill(
            model, prompt, {"low": Level(VST, 3), "high": Level(VST, 32)}, "own", "compact", meter
        )
    assert meter.flops["prefill"] == pytest.approx(counted.get_total_flops(), rel=1e-3)
    assert meter.flops["compression"] == 0
    assert len(grown) == 2 * model.shape.layers  # one for each layer of each pass


def test_a_kept_prefill_is_that_of_its_edge_rule(model, tmp_path):
    def session(levels):
        cache = PrefillCache(tmp_path, 1.0, levels)
        made = x2l.prefill(model, frames(34), levels, **PAPER, cache=cache)
        return made, cache.files.loaded

    plain = {"low": Level(VST, 2), "high": Level(VST, 32)}
    edges = {"low": Level(SummaryTokens(2), 2), "high": Level(SummaryTokens(2), 32)}
    first, loaded_first = session(plain)
    again, loaded_again = session(plain)
    other, loaded_other = session(edges)
    assert (loaded_first, loaded_again, loaded_other) == (0, 1, 0)
    assert all(map(torch.equal, stored(first, "high"), stored(again, "high")))
    assert other.store.kept("high") == (80, 5, 5, 32)


def test_a_window_that_does_not_fit_the_context_is_one_line(model, monkeypatch):
    """The last of three windows of 160 + 80 stands behind a prefix and twice 80."""
    prompt, levels = official_prompt(model, 30), {"low": Level(VST, 2), "high": Level(VST, 32)}
    needed = prompt.prefix + 2 * 80 + 240
    monkeypatch.setattr(model, "shape", replace(model.shape, context_length=needed))
    prefill(model, prompt, levels, "own", "compact")
    monkeypatch.setattr(model, "shape", replace(model.shape, context_length=needed - 1))
    with pytest.raises(ContextError, match=r"use a higher ratio, of level low first$") as caught:
        prefill(model, prompt, levels, "own", "compact")
    assert f"need {needed} positions" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"context": "full"},
            "prefill.context='full' prefill.positions='compact': must be own and",
        ),
        ({"positions": "keep"}, "prefill.context='own' prefill.positions='keep': must be own and"),
    ],
)
def test_passes_that_summary_tokens_do_not_know_are_refused(model, changes, message):
    with pytest.raises(ConfigError, match=message):
        x2l.prefill(model, frames(20), MIXED, **{**PAPER, **changes})


def test_a_model_without_summary_tokens_is_told_so():
    other, levels = ours("llava_onevision"), {"low": Level(VST, 2), "high": Level(KeyNorm(), 4)}
    with pytest.raises(ConfigError, match=r"levels\.low\.compressor=vst: the model has no weights"):
        x2l.prefill(other, frames(20), levels, **PAPER)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "prefill.context='full' prefill.positions='keep': must be own and compact"),
        (["prefill=paper", "levels.low.ratio=1"], r"levels\.low\.ratio=1: must be a whole number"),
        (
            ["prefill=paper", "levels.high.layers=pyramid"],
            r"levels\.high\.layers='pyramid': must be",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_model_is_loaded(overrides, message):
    with pytest.raises(ConfigError, match=message):
        engine(["compressor=vst", *overrides])


def test_the_paper_run_through_x2l_ask(folder, tmp_path, capsys):
    pixels = frames(34).pixels
    write_video(tmp_path / "clip.mp4", pixels.numpy(), fps=1)
    words = ["model=video_xl_7b", f"model.name_or_path={folder}", "model.device=cpu"]
    words += ["model.dtype=float32", "prefill=paper", "compressor=vst_edges", "video=mlvu"]
    words += ["compressor@levels.low.compressor=vst", "codec=int8", "top_k=1", "max_new_tokens=2"]
    where = ["--save", str(tmp_path / "answers")]
    try:
        ask.main([str(tmp_path / "clip.mp4"), "What?", *where, "--", *words])
    except SystemExit as error:
        assert not error.code, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "vst" in out and "context own, positions compact" in out and "4 chunks of 10" in out
    (path,) = (tmp_path / "answers").glob("*.json")
    assert json.loads(path.read_text())["settings"]["levels"][0]["ratio"] == 2


@pytest.mark.slow
def test_a_sweep_its_controls_and_its_report(folder, tmp_path):
    done = in_a_process(
        tmp_path,
        "-m",
        *SMALL,
        "benchmark.videos=1",
        f"model.name_or_path={folder}",
        "prefill=paper",
        "compressor=vst,vst_edges",
        "control=none,equal_kv_bytes",
        "selector=[none,oracle]",
        "top_k=1",
        "hydra.sweep.dir=outputs/s",
    )
    assert done.returncode == 0, done.stderr
    page = write_report(tmp_path / "outputs" / "s").read_text()
    assert "vst_edges" in page and "equal_kv_bytes" in page
    measured = {row["compressor"]: row["measured_ratio.high"] for row in rows_of(tmp_path)}
    assert measured["vst"] == 32 and measured["vst_edges"] == 2  # two chunks, both of them edges
