"""The retriever on real two-tower classes with random weights: what it computes, counts and refuses."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from tests import towers
from tests.selectors.stores import remembered
from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.selectors.base import Query
from x2l.selectors.retriever import RetrieverSelector

VIDEO = frames(14, seed=3)  # 4 chunks of 4, 4, 4 and 2 frames
TEXT = "What is the Colour of the star?"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {family: towers.save(family, folder) for family in towers.FAMILIES}


@pytest.fixture(scope="module")
def store():
    model = ours("qwen2_5_vl")
    full = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 8)}
    return prefill(model, model.prompt(VIDEO, 4), full)


def load(checkpoints, family, **changes):
    return RetrieverSelector.load(checkpoints[family], **changes)


def relevance(selector, store, meter=None, text=TEXT, choices=()):
    meter = meter or Meter()
    seen = remembered(selector, VIDEO, store.prompt.chunks, meter)
    question = ours("qwen2_5_vl").question(text)
    query = Query(question, "q", text=text, choices=choices, prepared=seen)
    return selector.relevance(query, store, ours("qwen2_5_vl"), meter)


def stock(path, family, text=TEXT):
    """Cosine of the text and every frame (X-CLIP: every chunk's clip), by the stock model and processor alone."""
    model, processor = AutoModel.from_pretrained(path), AutoProcessor.from_pretrained(path)
    pictures = [frame.permute(2, 0, 1) for frame in VIDEO.pixels]
    words = processor.tokenizer(
        text.lower(), padding="max_length", max_length=64, return_tensors="pt"
    )
    if family.startswith("siglip"):
        words.pop("attention_mask", None)
    with torch.no_grad():
        asked = model.get_text_features(**words).pooler_output
        if family.startswith("x_clip"):
            # Four frames a clip: whole chunks as they are, the last one's two frames twice.
            clips = [pictures[0:4], pictures[4:8], pictures[8:12]]
            clips.append([pictures[12], pictures[12], pictures[13], pictures[13]])
            pixels = [processor.image_processor(c, return_tensors="pt").pixel_values for c in clips]
            clips = torch.stack([p[0] if p.ndim == 5 else p for p in pixels])
            seen = model.get_video_features(clips).pooler_output
        else:
            inputs = processor.image_processor(pictures, return_tensors="pt")
            seen = model.get_image_features(**inputs).pooler_output
    return torch.nn.functional.cosine_similarity(seen, asked)


def test_frames_are_rated_by_their_own_cosine_and_those_of_a_clip_alike(checkpoints, store):
    model, chunks = ours("qwen2_5_vl"), store.prompt.chunks
    for family in ("clip", "x_clip"):
        selector = load(checkpoints, family)
        seen = remembered(selector, VIDEO, chunks)
        query = Query(model.question(TEXT), "q", text=TEXT, prepared=seen)
        frames = selector.frame_relevance(query, store, model)
        scores = stock(checkpoints[family], family)
        if family == "x_clip":
            scores = scores.repeat_interleave(torch.tensor([4, 4, 4, 2]))
        assert [len(of_chunk) for of_chunk in frames] == [4, 4, 4, 2]
        assert torch.allclose(torch.cat(frames), scores, atol=1e-5)


@pytest.mark.parametrize("family", towers.FAMILIES)
def test_relevance_is_the_stock_models_cosine(checkpoints, store, family):
    scores = stock(checkpoints[family], family)
    spread = 1e-5 if family.startswith("x_clip") else 1e-3
    assert scores.std() > spread, "the test needs scores that differ"
    want = scores
    if not family.startswith("x_clip"):
        want = torch.stack(
            [scores[0:4].max(), scores[4:8].max(), scores[8:12].max(), scores[12:].max()]
        )
    got = relevance(load(checkpoints, family, batch=5), store)
    assert got.shape == (4,) and got.device.type == "cpu"
    assert torch.allclose(got, want, atol=spread / 10)


def test_frames_are_pooled_by_maximum_or_mean(checkpoints, store):
    scores = stock(checkpoints["clip"], "clip")
    mean = relevance(load(checkpoints, "clip", pool="mean"), store)
    want = torch.stack(
        [scores[0:4].mean(), scores[4:8].mean(), scores[8:12].mean(), scores[12:].mean()]
    )
    assert torch.allclose(mean, want, atol=1e-5)


def test_options_are_searched_for_unless_told_otherwise(checkpoints, store):
    plain, wide = load(checkpoints, "clip", options=False), load(checkpoints, "clip")
    choices = ("a red one", "a blue one")
    alone = relevance(plain, store)
    assert torch.equal(alone, relevance(plain, store, choices=choices))
    assert torch.equal(relevance(wide, store), alone)  # a question without options
    assert torch.equal(
        relevance(wide, store, choices=choices),
        relevance(plain, store, text=f"{TEXT} a red one a blue one"),
    )
    assert not torch.equal(relevance(wide, store, choices=choices), alone)


def test_siglip_reads_lower_case_whatever_its_tokenizer_does(checkpoints, store):
    """SigLIP 2's weights come with tokenizers that keep capitals, which it never saw in training."""
    selector = load(checkpoints, "siglip")
    selector.towers.processor.tokenizer.do_lower_case = False
    low = relevance(selector, store, text=TEXT.lower())
    assert torch.equal(relevance(selector, store), low)


def test_a_text_beyond_the_models_length_is_cut(checkpoints, store):
    selector = load(checkpoints, "siglip")
    assert relevance(selector, store, text="how often " * 100).isfinite().all()


def by_hand():
    """CLIP's vision tower: patches, two layers, projection of the class token."""
    tokens, hidden, inner = (towers.SIDE // towers.PATCH) ** 2 + 1, 32, 48
    layer = 8 * tokens * hidden**2 + 4 * tokens**2 * hidden + 4 * tokens * hidden * inner
    return 2 * (tokens - 1) * 3 * towers.PATCH**2 * hidden + 2 * layer + 2 * hidden * 24


def test_operations_are_counted_by_stage(checkpoints, store):
    selector, meter = load(checkpoints, "clip"), Meter()
    assert selector.towers.flops_view == by_hand()
    relevance(selector, store, meter)
    assert meter.flops["retrieval"] == 14 * by_hand()
    assert meter.flops["selection"] == selector.towers.flops_text + 2 * 14 * 24
    assert selector.towers.flops_text > 0
    clips = Meter()
    relevance(load(checkpoints, "x_clip"), store, clips)
    assert clips.flops["retrieval"] == 4 * load(checkpoints, "x_clip").towers.flops_view


def test_settings_show_and_weights_do_not(checkpoints):
    """Cells are told apart by a selector's repr: it must name what matters, weights included."""
    selector = load(checkpoints, "clip")
    assert "pool='max'" in repr(selector) and " at 0x" not in repr(selector)
    same, other = load(checkpoints, "clip"), load(checkpoints, "clip", pool="mean")
    assert repr(same) == repr(selector) != repr(other)
    with torch.no_grad():
        other.towers.hf.text_projection.weight[0, 0] += 1
    from x2l.selectors.dual_encoder import TwoTowers

    changed = TwoTowers(other.towers.hf, other.towers.processor)
    assert changed.fingerprint != selector.weights


def test_without_the_frames_embeddings_it_refuses(checkpoints, store):
    selector = load(checkpoints, "clip")
    query = Query(ours("qwen2_5_vl").question(TEXT), "q", text=TEXT)
    with pytest.raises(ValueError, match="question 'q' came without the frames' embeddings"):
        selector.relevance(query, store, ours("qwen2_5_vl"), Meter())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "median"}, r"selector\.retriever\.pool='median': must be one of"),
        ({"dtype": "int8"}, r"selector\.retriever\.dtype='int8': must be one of"),
        ({"batch": 0}, r"selector\.retriever\.batch=0: must be a whole number"),
    ],
)
def test_what_cannot_work_is_refused(checkpoints, changes, message):
    with pytest.raises(ValueError, match=message):
        load(checkpoints, "clip", **changes)


def test_a_missing_checkpoint_names_the_command_that_fetches_it():
    with pytest.raises(OSError, match="hf download ./nowhere --revision v2`") as caught:
        RetrieverSelector.load("./nowhere", revision="v2")
    assert len(str(caught.value).splitlines()) == 1
    assert "selector.retriever.name_or_path='./nowhere'" in str(caught.value)


def test_a_model_without_two_towers_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    towers._clip_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model type 'bert' has no text and picture towers"):
        RetrieverSelector.load(str(tmp_path))


def copied(checkpoints, family, tmp_path):
    return Path(shutil.copytree(checkpoints[family], tmp_path / family))


def refused(folder):
    with pytest.raises((ValueError, OSError)) as caught:
        RetrieverSelector.load(str(folder))
    said = str(caught.value)
    assert said.startswith(f"selector.retriever.name_or_path={str(folder)!r}: ")
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize(
    ("family", "file", "message"),
    [
        ("clip", "tokenizer.json", "knows no words, all texts would be alike; tokenizer.json or"),
        ("siglip", "spiece.model", "its processor cannot be used: "),
        ("siglip2", "tokenizer.json", "knows no words, all texts would be alike; tokenizer.json"),
        ("x_clip", "tokenizer.json", "knows no words, all texts would be alike; tokenizer.json or"),
        ("clip", "processor_config.json", "its processor cannot be used: Can't load image"),
        ("clip", "config.json", "it holds no config.json; name the folder"),
        ("clip", "model.safetensors", "its weights or its config.json cannot be used: "),
    ],
)
def test_a_missing_file_is_told_in_one_line(checkpoints, tmp_path, family, file, message):
    folder = copied(checkpoints, family, tmp_path)
    (folder / file).unlink()
    assert message in refused(folder)


def test_a_repository_of_weights_and_words_alone_has_no_processor(checkpoints, tmp_path):
    folder = copied(checkpoints, "x_clip", tmp_path)
    for file in ("processor_config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / file).unlink()
    assert "has no tokenizer; preprocessor_config.json is missing" in refused(folder)


NAME = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{NAME}.weight": None}, f"1 weights are missing from it, {NAME}.weight for one"),
        ({f"{NAME}.lora_A.weight": torch.zeros(4, 32)}, "an adapter that was not merged"),
        ({f"{NAME}.weight": torch.zeros(4, 32)}, r"\[4, 32\], not \[32, 32\]"),
        ({"text_model.embeddings.position_ids": torch.arange(77)[None]}, None),
    ],
)
def test_weights_of_another_model_are_refused(checkpoints, tmp_path, changes, message, caplog):
    folder = copied(checkpoints, "clip", tmp_path)
    weights = load_file(folder / "model.safetensors") | changes
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if message is None:
        fingerprint = load(checkpoints, "clip").weights
        assert RetrieverSelector.load(str(folder)).weights == fingerprint
    else:
        assert re.search(message, refused(folder))
    assert "LOAD REPORT" not in caplog.text


@pytest.mark.parametrize("value", [None, "x", [1], -1, 0, 10**9])
@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "num_hidden_layers"])
def test_a_strange_size_is_told_in_one_line(checkpoints, tmp_path, name, value):
    folder = copied(checkpoints, "clip", tmp_path)
    told = json.loads((folder / "config.json").read_text())
    told["text_config"][name] = value
    (folder / "config.json").write_text(json.dumps(told))
    refused(folder)


def test_frames_of_another_video_give_other_embeddings(checkpoints, store):
    """Nothing is remembered between videos: the same call on other pixels is another result."""
    selector = load(checkpoints, "clip")
    first = remembered(selector, VIDEO, store.prompt.chunks)
    turned = replace(VIDEO, pixels=VIDEO.pixels.flip(0))
    assert torch.allclose(
        remembered(selector, turned, store.prompt.chunks), first.flip(0), atol=1e-6
    )
    assert torch.equal(remembered(selector, VIDEO, store.prompt.chunks), first)
