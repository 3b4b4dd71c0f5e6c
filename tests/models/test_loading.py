"""Loading: any checkpoint of a supported class by its folder, and one clear line for everything that goes wrong."""

import http.server
import json
import logging
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Idefics3Config,
    InternVLConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    VideoLlavaConfig,
)

from tests.tiny import FAMILIES, frames, ours, save
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import answer
from x2l.engine.prefill import prefill
from x2l.models import checkpoint, loading
from x2l.models.checkpoint import overridden, read_config, read_processor
from x2l.models.families import FAMILIES as FAMILIES_THAT_RUN
from x2l.models.families import REFUSED
from x2l.models.loading import load, weight_bytes

PAGE = Path(__file__).parents[2] / "docs" / "refused.md"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a tiny Qwen2.5-VL."""
    folder = tmp_path_factory.mktemp("saved")
    save("qwen2_5_vl", folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """The same, to be spoilt."""
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def first_logits(model):
    levels = {"low": Level(KeyNorm(), 2), "high": Level(KeyNorm(), 4)}
    store = prefill(model, model.prompt(frames(6), 4), levels, context="low")
    return answer(
        model, store, model.question("What is it?"), store.reloading((1,)), max_new_tokens=1
    ).first_logits


# Those whose experts lie in the file one by one, and in memory as one block.
MIXTURES = ("internvl_qwen3_moe", "qwen3_vl_moe", "glm4v_moe")


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_a_checkpoint_of_any_supported_class_loads_from_its_folder(family, tmp_path):
    save(family, tmp_path)
    # Not bit for bit: weights mapped from a file lie at other addresses.
    assert (first_logits(load(str(tmp_path))) - first_logits(ours(family))).abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_is_that_of_vision_tower_and_language_model(saved, attention):
    model = load(str(saved), attn_implementation=attention)
    assert model.hf.config.vision_config._attn_implementation == attention
    assert model.decoder.config._attn_implementation == f"x2l_{attention}"
    assert (first_logits(model) - first_logits(ours("qwen2_5_vl"))).abs().max() < 2e-5


SPREAD = {
    "model.visual": "cpu",
    "model.language_model.embed_tokens": "cpu",
    "model.language_model.layers.0": "cpu",
    "model.language_model.layers.1": "cpu",
    "model.language_model.layers.2": "disk",
    "model.language_model.layers.3": "disk",
    "model.language_model.norm": "cpu",
    "model.language_model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
OFFLOADED = {"model.visual": "disk", "model.language_model": "disk", "lm_head": "cpu"}


@pytest.mark.parametrize(
    ("device_map", "on_meta"), [("auto", 0), ({"": "cpu"}, 0), (SPREAD, 2), (OFFLOADED, 4)]
)
def test_a_spread_model_computes_the_same(saved, device_map, on_meta):
    """As far as one device allows: accelerate's hooks run, and weights are `meta` until they are used."""
    model = load(str(saved), device=None, device_map=device_map)
    layers = model.decoder.layers
    kinds = [next(layer.parameters()).device.type for layer in layers]
    assert kinds == ["cpu"] * (4 - on_meta) + ["meta"] * on_meta
    assert model.device == torch.device("cpu")
    assert (first_logits(model) - first_logits(ours("qwen2_5_vl"))).abs().max() < 1e-5


def test_the_video_processors_settings_can_be_replaced(saved):
    few = load(str(saved), video_processor={"size": {"longest_edge": 1024, "shortest_edge": 1024}})
    many = load(str(saved))
    video = frames(4)
    tokens = [model.prompt(video, 4).chunks[0].visual_tokens for model in (few, many)]
    assert tokens[0] * 4 == tokens[1]
    # One key of a mapping leaves the others as the checkpoint has them.
    one = overridden(many.processor.video_processor, {"size": {"longest_edge": 1 << 20}})
    assert dict(one.size) == {"longest_edge": 1 << 20, "shortest_edge": 4096}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sizes": 3}, r"model.video_processor.sizes=3: Qwen2VLVideoProcessor has no such setting"),
        (
            {"size": {"height": 3}},
            r"model.video_processor.size=.*keys longest_edge, shortest_edge",
        ),
        ({"size": 3}, r"model.video_processor.size=3: must be a mapping"),
    ],
)
def test_settings_that_the_video_processor_lacks_are_refused(saved, overrides, message):
    with pytest.raises(ValueError, match=message):
        load(str(saved), video_processor=overrides)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attn_implementation": "fast"}, r"model.attn_implementation='fast': must be one of"),
        (
            {"attn_implementation": "flash_attention_2", "device": "cpu", "dtype": "bfloat16"},
            "on a GPU only, not in bfloat16 on cpu; use 'sdpa'",
        ),
        (
            {"attn_implementation": "flash_attention_2", "device": "cuda"},
            "on a GPU only, not in float32 on cuda",
        ),
        ({"device": None}, "model.device=null: model.device_map is null too"),
        ({"device_map": "auto"}, "model.device_map='auto': model.device='cpu' is given too"),
        ({"device_map": "most", "device": None}, "model.device_map='most': must be one of"),
        ({"device": "cuda"}, "model.device='cuda': torch sees no CUDA device"),
        ({"positions": "auto"}, "model.positions='auto': must be one of"),
    ],
)
def test_wrong_values_name_field_value_rule_and_remedy(arguments, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message) as caught:
        load(**arguments)
    assert "\n" not in str(caught.value)


def test_flash_attention_that_is_not_installed_says_so(saved, monkeypatch):
    monkeypatch.setattr(loading, "_check_fits", lambda *given: None)
    monkeypatch.setattr(loading, "_placement", lambda *given: None)
    with pytest.raises(ValueError, match=r"^model.attn_implementation: Flash.*or use 'sdpa'$"):
        load(str(saved), device="cuda", dtype="bfloat16", attn_implementation="flash_attention_2")


# --- checkpoints that are not there -------------------------------------------------------------------------------


def test_without_a_network_one_line_says_how_to_fetch_it(monkeypatch, capfd):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # refuses connections
    with pytest.raises(OSError, match="cannot be reached; fetch it.*`hf download nobody/nothing`"):
        load("nobody/nothing")
    assert capfd.readouterr().err == "", "no retries, no warnings"


class Hub(http.server.BaseHTTPRequestHandler):
    """A Hub that knows of no repository but refuses each for its own reason."""

    CODES = {
        "gone": (404, "RepoNotFound"),
        "gated": (403, "GatedRepo"),
        "old": (404, "RevisionNotFound"),
    }

    def do_HEAD(self):
        owner = self.path.split("/")[1]
        status, code = self.CODES.get(owner, (200, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone/model", "no such repository on the Hub"),
        ("gated/model", "is gated; accept its terms at http.*gated/model.*hf download gated/model"),
        ("old/model", "has no revision 'v0'; correct model.revision"),
    ],
)
def test_a_repository_that_the_hub_refuses(hub, name, message):
    with pytest.raises(OSError, match=rf"model.name_or_path='{name}': .*{message}") as caught:
        load(name, revision="v0")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_path_that_leads_nowhere_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(checkpoint, "_hub_answers", lambda: pytest.fail("asked the Hub"))
    with pytest.raises(OSError, match="no such folder"):
        load(name)


def test_a_cached_repository_is_used_without_a_network(saved, tmp_path, monkeypatch):
    """The Hub's cache: refs and snapshots."""
    root = tmp_path / "models--someone--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    shutil.copytree(saved, root / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoint, "_hub_answers", lambda: False)
    source = checkpoint.locate("someone/tiny", None, False)
    assert source.options["local_files_only"] is True
    # Without a network files that the repository never had are absent like any other.
    assert first_logits(load("someone/tiny")).isfinite().all()
    with pytest.raises(OSError, match="not in this machine's cache"):
        checkpoint.locate("someone/else", None, False)


# --- checkpoints that cannot be used ------------------------------------------------------------------------------


def refused(folder, kind=ValueError):
    with pytest.raises(kind) as caught:
        load(str(folder))
    message = str(caught.value)
    assert message.startswith(f"model.name_or_path={str(folder)!r}: ") and "\n" not in message
    return message


def text_config():
    return {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}


def test_a_text_only_model_is_refused(tmp_path):
    config = Qwen2Config(**text_config(), intermediate_size=32, num_key_value_heads=2)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    assert "model type 'qwen2' takes text only; use one of type qwen2_vl" in refused(tmp_path)


def test_an_image_only_model_is_refused(tmp_path):
    text = {"model_type": "llama", **text_config(), "intermediate_size": 32}
    vision = SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = LlavaConfig(text_config=text, vision_config=vision)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "model type 'llava' takes images but no video; use one of" in refused(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Gemma3Config(), "'gemma3': layers with a sliding window forget what lies behind it"),
        (Idefics3Config(), "'idefics3' takes images but no video"),
        (VideoLlavaConfig(), "'video_llava' takes video, but has not been shown to equal"),
    ],
)
def test_other_classes_are_refused_by_their_configuration_alone(config, message, tmp_path):
    config.save_pretrained(tmp_path)
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "foo_vl"}, "'foo_vl' is not a video language model that transformers"),
        (
            {"model_type": "internvl_chat", "auto_map": {"AutoConfig": "x.Y"}},
            "'internvl_chat' is not a video language model that transformers.*lies in the repository.*-hf",
        ),
        ({"model_type": "vit"}, "'vit' is not a video language model;"),
        ({"hello": 1}, "names no model_type"),
    ],
)
def test_unknown_classes_are_refused(values, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert re.search(message, refused(tmp_path))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_asked_for_is_refused_with_the_reason_that_the_docs_give(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert f"model type '{kind}': {REFUSED[kind]} (docs/refused.md)" in refused(tmp_path)
    (row,) = (line for line in PAGE.read_text().splitlines() if f"`{kind}`" in line)
    assert f"| {REFUSED[kind]} |" in row


def test_every_model_type_on_the_page_is_refused():
    kinds = {
        kind for line in PAGE.read_text().splitlines() for kind in re.findall(r"`(\w+)`", line)
    }
    assert set(REFUSED) <= kinds and "glm46v" in kinds
    assert kinds & set(FAMILIES_THAT_RUN) <= {"internvl"}  # around what is no pair


def test_a_broken_configuration_is_refused(folder):
    (folder / "config.json").write_text("{")
    assert "its config.json is no JSON (Expecting property" in refused(folder, OSError)


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "tokenizer_config.json",
    ],
)
def test_a_file_that_must_hold_an_object_and_holds_a_list_is_named(folder, file):
    (folder / file).write_text("[1]")
    assert f"its {file} must hold a JSON object, not a list" in refused(folder, OSError)


def changed(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": ["qwen2_vl"]}, "model_type=['qwen2_vl']: must be a text"),
        ({"text_config": [1]}, "its config.json cannot be used: "),
        ({"text_config": {"hidden_size": "x"}}, "'hidden_size' expected int, got str (value: 'x')"),
    ],
)
def test_a_value_of_another_kind_is_told_in_one_line(folder, values, message):
    changed(folder, **values)
    assert message in refused(folder)


def test_a_text_model_that_was_not_shown_equal_is_refused_before_weights_are_read(tmp_path):
    InternVLConfig(text_config={"model_type": "gpt2"}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'internvl' around a text model of type 'gpt2' has not"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("quantised", "message"),
    [
        ({"quant_method": "hqq"}, "by 'hqq', which needs a package that is missing: A valid HQQ"),
        ({"quant_method": "foo"}, "quantised by 'foo', which transformers"),
        ("int4", "quantised by 'int4', which transformers"),
    ],
)
def test_quantised_weights_that_cannot_be_read_say_why(folder, quantised, message):
    changed(folder, quantization_config=quantised)
    assert message in refused(folder)


def test_quantised_weights_that_this_machine_cannot_use_say_why(folder, monkeypatch):
    def fail(*given, **options):
        raise RuntimeError("No GPU found. A GPU is needed.")

    changed(folder, quantization_config={"quant_method": "fp8"})
    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fail)
    assert "by 'fp8' and cannot be used here: No GPU found." in refused(folder)


def test_a_package_that_is_missing_is_not_taken_for_flash_attention(folder, monkeypatch):
    def fail(*given, **options):
        raise ImportError("No module named 'timm'")

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fail)
    assert "a package that it needs is missing: No module named 'timm'" in refused(folder)


def test_layers_that_cannot_be_chunked_are_refused_before_weights_are_read(folder):
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["layer_types"] = ["full_attention", "sliding_attention"] * 2
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"layers of type \['sliding_attention'\]"):
        load(str(folder))


@pytest.mark.parametrize(
    ("file", "kind", "message"),
    [
        ("config.json", OSError, "holds no config.json; name the folder"),
        ("processor_config.json", OSError, "its processor cannot be used: Can't load image"),
        ("tokenizer.json", ValueError, "knows no words, all texts would be alike; tokenizer.json"),
        ("chat_template.jinja", ValueError, "its chat template cannot be used: Cannot use"),
        ("model.safetensors", OSError, "it holds no weights, neither model.safetensors nor"),
    ],
)
def test_a_missing_file_is_named(folder, file, kind, message):
    (folder / file).unlink()
    assert message in refused(folder, kind)


def test_a_processor_without_a_video_processor_is_refused(folder, monkeypatch):
    class ImagesOnly:
        tokenizer = None

    monkeypatch.setattr(
        checkpoint.AutoProcessor, "from_pretrained", lambda *given, **options: ImagesOnly()
    )
    source = checkpoint.locate(str(folder), None, False)
    with pytest.raises(ValueError, match=r"its processor \(ImagesOnly\) has no video processor"):
        read_processor(source, read_config(source))


def test_broken_weights_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    assert "its weights cannot be read: Error while deserializing" in refused(folder, OSError)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_a_pickle_is_refused_unread_with_what_to_do(folder, file):
    (folder / "model.safetensors").rename(folder / file)
    message = refused(folder)
    assert f"its weights are a pickle ({file})" in message and "save_pretrained" in message


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", f"its {INDEX} is no JSON"),
        ("[]", f"its {INDEX} must hold a JSON object, not a list"),
        ("{}", f"its {INDEX} must have a weight_map"),
        ('{"weight_map": []}', "must have a weight_map"),
        ('{"weight_map": {}}', "must have a weight_map"),
        ('{"weight_map": {"a": 1}}', "must have a weight_map"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "from names of weights to files beside it"),
        ('{"weight_map": {"a": "a.safetensors"}}', f"a.safetensors is missing, which its {INDEX}"),
    ],
)
def test_a_broken_index_of_weights_says_so(folder, content, message):
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(content)
    assert message in refused(folder, OSError)


@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_is_to_be_merged_first(folder, alone):
    """As peft saves it, without a config.json, or beside a whole model."""
    if alone:
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert "a PEFT adapter to another checkpoint; merge it: " in refused(folder)


def spoilt(folder, change):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.2.input_layernorm.weight"))
    change(weights, name)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_would_be_random_are_refused(folder):
    spoilt(folder, lambda weights, name: weights.pop(name))
    message = refused(folder, OSError)
    assert "1 weights are missing from it, model" in message and "input_layernorm" in message


def test_weights_of_another_size_are_refused(folder):
    spoilt(folder, lambda weights, name: weights.update({name: weights[name][:3].clone()}))
    told = refused(folder, OSError)
    assert re.search(
        r"1 of its weights have other sizes .*, model\.\S+ for one: \[3.*\], not \[", told
    )


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("self_attn.q_proj.lora_A.weight", "an adapter that was not merged: `merge_and_unload()`"),
        ("self_attn.q_proj.lora_A.default.weight", "an adapter that was not merged"),
        ("self_attn.q_norm.weight", "it is another model than its config.json says"),
        ("mlp.gate_proj.bias", "it is another model than its config.json says"),
    ],
)
def test_weights_that_would_be_left_out_are_refused_in_one_line(folder, added, message, caplog):
    def change(weights, name):
        weights[name.replace("input_layernorm.weight", added)] = torch.zeros(4, 4)

    spoilt(folder, change)
    told = refused(folder, OSError)
    assert "1 of its weights belong to no part of the model, model." in told
    assert added in told and message in told
    assert "LOAD REPORT" not in caplog.text, "transformers says it too"


def test_a_layer_more_than_the_configuration_says_is_refused(folder):
    def change(weights, name):
        prefix = name.partition("layers.2.")[0] + "layers."
        last = {n: t for n, t in weights.items() if n.startswith(f"{prefix}3.")}
        weights |= {n.replace(f"{prefix}3.", f"{prefix}4."): t.clone() for n, t in last.items()}

    spoilt(folder, change)
    assert "layers.4." in refused(folder, OSError)


@pytest.mark.parametrize(
    ("family", "unused"),
    [
        ("qwen2_5_vl", "model.language_model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("qwen2_5_vl", "model.visual.rotary_pos_emb.inv_freq"),
        ("llava_onevision", "model.vision_tower.vision_model.head.probe"),
        ("llava_onevision", "model.vision_tower.vision_model.embeddings.position_ids"),
    ],
)
def test_weights_that_published_checkpoints_have_and_nothing_computes_with_are_left_out(
    family, unused, tmp_path, caplog
):
    save(family, tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {unused: torch.ones(4)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert (first_logits(load(str(tmp_path))) - first_logits(ours(family))).abs().max() < 1e-5
    assert "LOAD REPORT" not in caplog.text


def test_the_report_that_an_error_points_to_is_shown(saved, monkeypatch, caplog):
    logger = logging.getLogger("transformers.modeling_utils")

    def fail(*given, **options):
        logger.warning("Model LOAD REPORT from: nowhere")
        raise RuntimeError("look at the above report")

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fail)
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(RuntimeError, match="above report"):
            load(str(saved))
    finally:
        logger.removeHandler(caplog.handler)
    assert "LOAD REPORT" in caplog.text and not logger.filters


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_key_value_heads": 0}, "text_config.num_key_value_heads=0: must be a whole number"),
        ({"hidden_act": "nonsense"}, "its config.json cannot be used: "),
        ({"num_attention_heads": -1}, "text_config.num_attention_heads=-1: must be a whole number"),
        ({"num_attention_heads": 3}, "its config.json cannot be used: "),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_weights_are_read(folder, values, message):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    changed(folder, text_config=text | values)
    (folder / "model.safetensors").unlink()
    assert message in refused(folder)


def test_a_tower_whose_building_would_not_end_is_refused(folder):
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    changed(folder, vision_config=vision | {"depth": 10**9})
    assert "vision_config.depth=1000000000: must be a whole number from 1 to 1000" in refused(
        folder
    )


def test_a_tokenizer_with_half_of_its_files_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({"W": 0, "h": 1, "a": 2, "t": 3, "i": 4}))
    assert "its processor cannot be used: `vocab` and `merges` must be both" in refused(folder)


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v_moe"])
def test_bytes_of_weights_are_known_without_them(family):
    hf = ours(family).hf
    want, before = sum(parameter.nbytes for parameter in hf.parameters()), hf.config.to_dict()
    assert weight_bytes(hf.config, torch.bfloat16) * 2 == want
    assert weight_bytes(hf.config, torch.float32) == want
    assert hf.config.to_dict() == before, "the configuration must load the model unchanged later"


def test_weights_that_do_not_fit_are_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(loading, "available_bytes", lambda device: 1000)
    (folder / "model.safetensors").unlink()
    message = refused(folder)
    assert (
        "out of memory: its weights in float32 (0.0 GB) do not fit on cpu (0.0 GB free)" in message
    )
    assert "model.dtype=bfloat16" in message and "model.device_map=auto" in message


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_running_out_of_memory_while_loading_is_one_line(saved, error, monkeypatch):
    def fail(*given, **options):
        raise error

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fail)
    assert "out of memory: its weights in float32" in refused(saved)


def test_other_errors_while_loading_stay_what_they_are(saved, monkeypatch):
    def fail(*given, **options):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(RuntimeError, match="^a fault of ours$"):
        load(str(saved))
