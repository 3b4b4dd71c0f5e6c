"""Qwen2.5-VL as people save it after training: each way loads, and computes what the model computed before."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from tests.families import qwen
from tests.tiny import build, frames, processor, stock_inputs
from x2l.models.huggingface import HFVideoModel
from x2l.models.loading import load

FAMILY = "qwen2_5_vl"


@pytest.fixture
def trained():
    """A model unlike the one that every other test has."""
    model = build(FAMILY)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def tied():
    config = qwen.qwen2_5_config(processor(FAMILY).tokenizer)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    torch.manual_seed(2)
    return AutoModelForImageTextToText.from_config(config)


def logits(model):
    """Of the first answer token, uncompressed."""
    prompt, cache = model.prompt(frames(6), 6), model.new_cache()
    model.prefill_span(
        model.embed_text(prompt.input_ids[: prompt.prefix]),
        prompt.positions[:, : prompt.prefix],
        cache,
    )
    (chunk,) = prompt.chunks
    model.prefill_span(model.embed_chunk(prompt, chunk), chunk.positions, cache)
    words = model.embed_text(model.question("What is it?").input_ids)
    at = torch.arange(words.embeds.shape[1]).expand(3, -1) + prompt.next_position
    return model.logits(words, at, cache)


def same(hf, folder):
    words = processor(FAMILY)
    words.save_pretrained(folder)
    want = logits(HFVideoModel(hf, words))
    assert want.abs().max() > 1
    return (logits(load(str(folder))) - want).abs().max() < 1e-5


def test_shards(trained, tmp_path):
    trained.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert same(trained, tmp_path)


@pytest.mark.parametrize("said", ["both", "outside", "inside"])
def test_tied_weights_wherever_the_configuration_says_so(said, tmp_path):
    """Qwen2.5-VL-3B: no `lm_head` in the file. Versions of transformers wrote the flag in one place or the other."""
    model = tied()
    model.save_pretrained(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    config = json.loads((tmp_path / "config.json").read_text())
    if said == "outside":
        config["text_config"].pop("tie_word_embeddings")
    if said == "inside":
        config.pop("tie_word_embeddings")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(model, tmp_path)


def test_a_state_dict_under_the_names_of_the_class(trained, tmp_path):
    """What DeepSpeed and FSDP gather; `save_pretrained` writes the older names of the published files instead."""
    trained.save_pretrained(tmp_path)
    before = set(load_file(tmp_path / "model.safetensors"))
    save_file(trained.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert before.isdisjoint(
        name for name in trained.state_dict() if name.startswith("model.visual")
    )
    assert same(trained, tmp_path)


def low_rank(model):
    """A LoRA of rank 4 on every query and value projection: name of its layer -> what it adds to the weight."""
    torch.manual_seed(3)
    return {
        name: torch.randn(layer.out_features, 4) @ torch.randn(4, layer.in_features) * 0.01
        for name, layer in model.named_modules()
        if name.endswith(("self_attn.q_proj", "self_attn.v_proj"))
    }


def test_a_merged_adapter(tmp_path):
    merged = build(FAMILY)
    before = logits(HFVideoModel(build(FAMILY), processor(FAMILY)))
    with torch.no_grad():
        for name, added in low_rank(merged).items():
            merged.get_submodule(name).weight += added
    merged.save_pretrained(tmp_path)
    assert same(merged, tmp_path)
    assert (logits(load(str(tmp_path))) - before).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own
def test_the_remedy_for_an_adapter_of_peft(trained, tmp_path):
    """As the message says it: the adapter's folder is refused, what peft merges is the adapted model."""
    peft = pytest.importorskip("peft", reason="peft is absent: pip install peft")
    base, adapter, merged = (tmp_path / name for name in ("base", "adapter", "merged"))
    trained.save_pretrained(base)
    before = logits(HFVideoModel(trained, processor(FAMILY)))
    settings = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(trained, settings)
    want = logits(HFVideoModel(adapted.base_model.model, processor(FAMILY)))
    adapted.save_pretrained(adapter)
    with pytest.raises(ValueError, match="a PEFT adapter to another checkpoint; merge it"):
        load(str(adapter))
    again = AutoModelForImageTextToText.from_pretrained(base)
    peft.PeftModel.from_pretrained(again, adapter).merge_and_unload().save_pretrained(merged)
    processor(FAMILY).save_pretrained(merged)
    assert (logits(load(str(merged))) - want).abs().max() < 1e-5
    assert (want - before).abs().max() > 1e-3


def test_an_adapter_saved_as_if_it_were_merged_is_refused(trained, tmp_path):
    """The names of a PeftModel: nothing in the file is a weight of the model."""
    trained.save_pretrained(tmp_path)
    processor(FAMILY).save_pretrained(tmp_path)
    wrapped = {f"base_model.model.{name}": value for name, value in trained.state_dict().items()}
    save_file(wrapped, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match="weights are missing from it, "):
        load(str(tmp_path))


def smaller():
    """The processor as it is called with `max_pixels`: a quarter of the pixels."""
    words = qwen.qwen2_5_processor()
    words.video_processor.size = {"shortest_edge": 1024, "longest_edge": 1024}
    return words


def legacy(folder):
    """One preprocessor_config.json for pictures and videos with `max_pixels`, as the published repositories have it."""
    (folder / "processor_config.json").unlink()
    settings = {"min_pixels": 1024, "max_pixels": 1024, "patch_size": 8, "merge_size": 2}
    settings |= {"temporal_patch_size": 2, "processor_class": "Qwen2_5_VLProcessor"}
    settings |= {"image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("layout", [None, legacy])
def test_other_pixels_of_a_frame(trained, layout, tmp_path):
    trained.save_pretrained(tmp_path)
    smaller().save_pretrained(tmp_path)
    if layout is not None:
        layout(tmp_path)
    model, video = load(str(tmp_path)), frames(6)
    visual = sum(chunk.visual_tokens for chunk in model.prompt(video, 4).chunks)
    loaded = stock_inputs(FAMILY, video, instead=model.processor)
    assert visual == int((loaded["input_ids"] == model.hf.config.video_token_id).sum())
    assert visual == 3 * 4 < 3 * 16
