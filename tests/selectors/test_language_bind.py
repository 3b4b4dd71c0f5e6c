"""LanguageBind's video retriever against what the official code computed from the same tiny random weights.

`oracles/language_bind/oracle.json` says what was recorded and how.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import CLIPTokenizer
from transformers.activations import ACT2FN

from experiments.selection import language_bind
from tests.selectors.stores import remembered
from tests.strange import accepted
from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.selectors.language_bind import ClipPixels, TimeLayer
from x2l.selectors.retriever import RetrieverSelector
from x2l.video import write_video

ORACLE = Path(__file__).parents[1] / "oracles" / "language_bind"
ABOUT = json.loads((ORACLE / "oracle.json").read_text())
RECORDED = load_file(ORACLE / "oracle.safetensors")
CLIPS = [RECORDED["frames_landscape"], RECORDED["frames_portrait"]]
LETTERS = "abcdefghijklmnopqrstuvwxyz?'\".!"


def checkpoint(folder, variant="ft", weights=None, **vision):
    """A folder in the published layout."""
    values = json.loads(json.dumps(ABOUT["configs"][variant]))
    values["vision_config"] |= vision
    (folder / "config.json").write_text(json.dumps(values))
    state = weights or load_file(ORACLE / f"weights_{variant}.safetensors")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return folder


def towers(folder, variant="ft", **changes):
    return RetrieverSelector.load(str(checkpoint(folder, variant, **changes))).towers


@pytest.fixture
def ft(tmp_path):
    return towers(tmp_path)


def off(model, variant="ft"):
    """Largest difference from the official embeddings of the two clips."""
    clips = torch.cat([model.clip(pixels) for pixels in CLIPS])
    return float((clips - RECORDED[f"{variant}.image_embeds_of_frames"]).abs().max())


@pytest.mark.parametrize("variant", ABOUT["configs"])
def test_embeddings_are_the_official_ones(variant, tmp_path):
    model = towers(tmp_path, variant)
    assert off(model, variant) < 1e-5 and model.clip_frames == 8
    with torch.no_grad():
        words = model.hf.get_text_features(input_ids=RECORDED["input_ids"]).pooler_output
    words = normalize(words, dim=-1)
    assert (words - RECORDED[f"{variant}.text_embeds"]).abs().max() < 1e-5
    clips = torch.cat([model.clip(pixels) for pixels in CLIPS])
    logits = model.hf.clip.logit_scale.exp() * words @ clips.T
    assert torch.allclose(logits, RECORDED[f"{variant}.logits_of_frames"], atol=2e-4)


def spatial_first(layer, hidden, mask, **kwargs):
    attended = super(TimeLayer, layer).forward(hidden, mask, **kwargs)
    frames = attended.unflatten(0, (-1, layer.num_frames))
    along = frames.transpose(1, 2).flatten(0, 1) + layer.temporal_embedding
    along = along + layer.temporal_attn(layer.temporal_layer_norm1(along), **kwargs)[0]
    return along.unflatten(0, (-1, hidden.shape[1])).transpose(1, 2).flatten(0, 1)


def without_class(layer, hidden, mask, **kwargs):
    """Time for patches only, as in TimeSformer."""
    stays = super(TimeLayer, layer).forward
    moved = TimeLayer.forward(layer, hidden, mask, **kwargs)
    return torch.cat([stays(hidden, mask, **kwargs)[:, :1], moved[:, 1:]], dim=1)


def embedding_for_attention_only(layer, hidden, mask, **kwargs):
    along = hidden.unflatten(0, (-1, layer.num_frames)).transpose(1, 2).flatten(0, 1)
    timed = layer.temporal_layer_norm1(along + layer.temporal_embedding)
    along = along + layer.temporal_attn(timed, **kwargs)[0]
    back = along.unflatten(0, (-1, hidden.shape[1])).transpose(1, 2).flatten(0, 1)
    return super(TimeLayer, layer).forward(back, mask, **kwargs)


@pytest.mark.parametrize(
    "wrong", [spatial_first, without_class, embedding_for_attention_only], ids=lambda f: f.__name__
)
def test_another_layer_gives_other_embeddings(wrong, ft):
    for layer in ft.hf.clip.vision_model.encoder.layers:
        layer.forward = wrong.__get__(layer)
    assert off(ft) > 1e-2


def test_another_order_of_pooling_gives_other_embeddings(ft):
    """Norm, mean, projection; here mean, norm, projection."""
    vision = ft.hf.clip.vision_model
    norm, vision.post_layernorm = vision.post_layernorm, torch.nn.Identity()
    projection = ft.hf.clip.visual_projection
    ft.hf.clip.visual_projection = torch.nn.Sequential(norm, projection)
    assert off(ft) > 1e-3


def test_another_activation_gives_other_embeddings(ft):
    for layer in ft.hf.clip.vision_model.encoder.layers:
        layer.mlp.activation_fn = ACT2FN["quick_gelu"]
    assert off(ft) > 1e-4


def test_adapters_left_out_or_of_another_strength_give_other_embeddings(tmp_path):
    stored = load_file(ORACLE / "weights_lora.safetensors")
    without = {name: tensor for name, tensor in stored.items() if "lora_" not in name}
    (tmp_path / "without").mkdir()
    assert off(towers(tmp_path / "without", "lora", weights=without, lora_r=0), "lora") > 1e-2
    assert off(towers(tmp_path, "lora", lora_alpha=64), "lora") > 1e-2


def test_frames_in_another_order_are_another_clip(ft):
    moved = torch.cat([ft.clip(pixels.roll(3, 0)) for pixels in CLIPS])
    assert (moved - RECORDED["ft.image_embeds_of_frames"]).abs().max() > 1e-2


@pytest.mark.parametrize("shape", ["landscape", "portrait"])
def test_pixels_are_the_official_ones(shape):
    pictures = RECORDED[f"frames_{shape}"].permute(0, 3, 1, 2)
    pixels = ClipPixels(224)(list(pictures))["pixel_values"]
    official = RECORDED[f"out_{shape}_every7"].transpose(0, 1)
    assert (pixels[..., ::7, ::7] - official).abs().max() < 1e-5


def test_shrinking_does_not_smooth_first():
    """Bilinear without antialias: of 8 columns that shrink to 2, each takes the mean of two neighbours."""
    columns = torch.arange(8, dtype=torch.uint8).mul(30).expand(1, 3, 8, 8)
    pixels = ClipPixels(2)(list(columns))["pixel_values"][0, 0, 0]
    levels = (pixels * 0.26862954 + 0.48145466) * 255
    assert torch.allclose(levels, torch.tensor([45.0, 165.0]), atol=1e-3)


def test_a_chunk_is_sampled_as_officially(ft):
    table = ABOUT["sampling_np_linspace_int"]
    for count, official in table.items():
        assert ft.sampled(int(count)).tolist() == official
    rounded = [torch.linspace(0, int(n) - 1, 8).round().long().tolist() for n in table]
    assert rounded != list(table.values())


def test_texts_are_padded_to_77_cut_and_their_quotes_straightened(ft):
    def ids(text):
        return ft.processor.tokenizer(
            text, padding="max_length", truncation=True, max_length=ft._length
        )["input_ids"]

    long = ids("how often? " * 50)
    assert len(long) == 77 and (long[0], long[-1]) == (62, 63)
    short = ids("a cat")
    assert short[:6] == [62, 31, 2, 0, 50, 63] and set(short[6:]) == {63}
    assert ids("\u201cwhat\u2019s \u2018it\u2019?\u201d") == ids("\"what's 'it'?\"")
    assert torch.equal(ft.text("the dog\u2019s"), ft.text("the dog's"))


def test_it_rates_chunks_by_one_clip_each(ft, tmp_path):
    model, video = ours("qwen2_5_vl"), frames(14, seed=3)
    levels = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 8)}
    store = prefill(model, model.prompt(video, 12), levels)
    selector, meter = RetrieverSelector.load(str(tmp_path)), Meter()
    clips = remembered(selector, video, store.prompt.chunks, meter)
    expected = [[0, 1, 3, 4, 6, 7, 9, 11], [12, 12, 12, 12, 12, 12, 12, 13]]
    assert torch.equal(clips, torch.cat([ft.clip(video.pixels[at]) for at in expected]))
    assert meter.flops["retrieval"] == 2 * ft.flops_view
    turned = replace(video, pixels=video.pixels.flip(0))
    assert not torch.equal(clips, remembered(selector, turned, store.prompt.chunks, meter))


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"add_time_attn": False}, r"vision_config\.add_time_attn=False: must be True"),
        ({"tube_size": 2}, r"vision_config\.tube_size=2: must be 1"),
        ({"clip_type": "al"}, r"vision_config\.clip_type='al': must be 'vl' or 'vl_new'"),
        ({"num_frames": None}, r"vision_config\.num_frames=None: must be a whole number from 1 to"),
        ({"num_frames": -8}, r"vision_config\.num_frames=-8: must be a whole number from 1 to"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers=1000000000: must be a whole number"),
        ({"hidden_size": 10**6}, r"of other sizes.*\(\[1, 32\] and \[1, 1000000\]\)"),
        (
            {"num_attention_heads": 3},
            r"not a multiple of the number of attention heads \(3\)",
        ),
        ({"patch_size": 64}, r"vision_config\.patch_size=64: must be at most image_size=32"),
        ({"hidden_act": "nonsense"}, r"hidden_act='nonsense': must be the name of an activation"),
        ({"num_frames": 4}, r"temporal_embedding for one \(\[1, 8, 32\] and \[1, 4, 32\]\)"),
        ({"num_hidden_layers": 3}, r"weights are missing.*layers\.2"),
        ({"lora_r": 4}, r"lora_r=4 with 0 adapters"),
        ({"lora_r": -1}, r"lora_r=-1: must be a whole number, 0 without adapters"),
    ],
)
def test_what_was_not_shown_equal_is_refused(tmp_path, vision, message):
    with pytest.raises(ValueError, match=message) as caught:
        towers(tmp_path, **vision)
    said = str(caught.value)
    assert said.startswith("selector.retriever.name_or_path=") and len(said.splitlines()) == 1


def refused(folder):
    with pytest.raises((ValueError, OSError)) as caught:
        RetrieverSelector.load(str(folder))
    said = str(caught.value)
    assert said.startswith(f"selector.retriever.name_or_path={str(folder)!r}: ")
    assert len(said.splitlines()) == 1
    return said


def changed(folder, **values):
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | values))
    return folder


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vision_config": []}, "vision_config=[]: must be a mapping"),
        ({"text_config": None}, "text_config=None: must be a mapping"),
        ({"projection_dim": 0}, "projection_dim=0: must be a whole number"),
        ({"projection_dim": "x"}, "its config.json cannot be used: "),
    ],
)
def test_a_configuration_of_another_shape_is_refused(tmp_path, values, message):
    assert message in refused(changed(checkpoint(tmp_path), **values))


ADAPTER = "vision_model.encoder.layers.0.temporal_attn.q_proj"


# What nothing here reads, and what may say any size that CLIP's classes do not compute with.
UNREAD = {
    "text_config.projection_dim",
    "vision_config.projection_dim",
    "vision_config.force_patch_dropout",
    "vision_config.lora_alpha",  # there are no adapters
    "vision_config.lora_dropout",
    "vision_config.video_decode_backend",
    "text_config.bos_token_id",
    "text_config.eos_token_id",  # the tokenizer says it
}


def test_no_strange_value_of_a_configuration_is_met_later(tmp_path):
    folder = checkpoint(tmp_path)
    values = json.loads((folder / "config.json").read_text())
    del values["model_type"]

    def load(strange):
        RetrieverSelector.load(str(changed(folder, **strange)))

    taken = accepted(values, load, f"selector.retriever.name_or_path={str(folder)!r}: ")
    assert set(taken) <= UNREAD, taken


def adapter(state, half):
    (name,) = (n for n in state if ADAPTER.split("encoder.")[1] in n and f"lora_{half}" in n)
    return name


def without_half(state):
    del state[adapter(state, "B")]


def without_matrix(state):
    del state[adapter(state, "A").split("lora_")[0] + "weight"]


def of_another_rank(state):
    for half, kept in (("A", slice(0, 3)), ("B", (slice(None), slice(0, 3)))):
        name = adapter(state, half)
        state[name] = state[name][kept].clone()


@pytest.mark.parametrize(
    ("spoil", "vision", "message"),
    [
        (without_half, {}, r"adapter of \S+q_proj.weight has matrices of sizes \[4, 32\] and \[0"),
        (without_matrix, {}, r"adapter of \S+q_proj.weight .* must be of a weight that there is"),
        (of_another_rank, {}, r"\[3, 32\] and \[32, 3\]: must be \[4, 32\] and \[32, 4\]"),
        (None, {"lora_r": 64}, r"\[4, 32\].*: must be \[64, 32\].*lora_r=64 of config.json"),
        (None, {"lora_r": 0}, r"vision_config.lora_r=0 with \d+ adapters among the weights"),
        (None, {"lora_alpha": None}, "lora_alpha=None: must be a number above 0"),
        (None, {"lora_alpha": "x"}, "lora_alpha='x': must be a number above 0"),
    ],
)
def test_adapters_that_are_not_whole_are_refused(tmp_path, spoil, vision, message):
    state = load_file(ORACLE / "weights_lora.safetensors")
    if spoil is not None:
        spoil(state)
    assert re.search(message, refused(checkpoint(tmp_path, "lora", weights=state, **vision)))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"x" * 100, "its model.safetensors cannot be read: "),
        ("pytorch_model.bin", b"x" * 100, "its pytorch_model.bin cannot be read: "),
        ("pytorch_model.bin", [1, 2], "its pytorch_model.bin must hold weights by name"),
        ("pytorch_model.bin", Path("x"), "its pytorch_model.bin cannot be read: "),
        ("config.json", b"{", "its config.json is no JSON"),
        ("config.json", b"[1]", "its config.json must hold a JSON object"),
    ],
)
def test_broken_files_are_named(tmp_path, file, content, message):
    folder = checkpoint(tmp_path)
    if file.endswith("bin"):
        (folder / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (folder / file).write_bytes(content)
    else:
        torch.save(content, folder / file)
    assert message in refused(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_were_cut_are_named(tmp_path, file):
    folder = checkpoint(tmp_path)
    if file.endswith("bin"):
        torch.save(load_file(folder / "model.safetensors"), folder / file)
        (folder / "model.safetensors").unlink()
    (folder / file).write_bytes((folder / file).read_bytes()[:-1000])
    assert f"its {file} cannot be read: " in refused(folder)


def test_without_its_words_all_questions_would_be_alike(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "tokenizer.json").unlink()
    told = refused(folder)
    assert "knows no words" in told and "tokenizer.json or vocab.json and merges.txt is" in told
    words = {word: number for number, word in enumerate(["<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    assert "its tokenizer cannot be used: `vocab` and `merges` must be both" in refused(folder)


def test_a_tokenizer_with_more_words_than_the_tower_is_refused(tmp_path):
    folder = checkpoint(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(folder)
    assert "knows 65 tokens: must be at most text_config.vocab_size=64" in refused(folder)


def test_other_modalities_and_missing_files_are_refused(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="neither model.safetensors nor pytorch_model.bin"):
        RetrieverSelector.load(str(folder))
    (folder / "config.json").write_text('{"model_type": "LanguageBindAudio"}')
    with pytest.raises(ValueError, match="'LanguageBindAudio' takes no video"):
        RetrieverSelector.load(str(folder))


def test_a_pickled_checkpoint_is_read_as_weights_only(tmp_path, ft):
    (tmp_path / "model.safetensors").unlink()
    state = load_file(ORACLE / "weights_ft.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert RetrieverSelector.load(str(tmp_path)).weights == ft.fingerprint


def test_the_script_for_users_with_the_weights_runs(tmp_path, ft, capsys):
    write_video(tmp_path / "clip.mp4", frames(12, seed=3).pixels.numpy(), fps=1)
    words = [str(tmp_path / "clip.mp4"), "a cat", "--model", str(tmp_path)]
    assert language_bind.main(words) == 1  # a tiny tower is not the published one
    out = capsys.readouterr().out
    assert (
        "hidden_act = 'gelu' (expected: 'gelu')" in out
        and "hidden_size = 32 (expected: 1024)" in out
    )
    assert out.count("mirrored") == 2 and "frames [0, 1, 2, 3, 5, 6, 7, 9]" in out
