"""The attention function: every kernel gives lower-right causal attention with the bias, and the right one is taken."""

import copy
import itertools
import math

import pytest
import torch
from transformers import Qwen2Config
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import answer
from x2l.engine.prefill import prefill
from x2l.models import attention
from x2l.models.attention import (
    AttentionCapture,
    attend,
    attending,
    kernel_for,
    plain_or_explicit,
    register,
)

HEADS, KV_HEADS, WIDTH = 8, 2, 16
SHAPES = [(1, 9), (5, 9), (9, 9), (1, 1)]


def module():
    config = Qwen2Config(
        hidden_size=HEADS * WIDTH, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS
    )
    return Qwen2Attention(config, layer_idx=0).eval()


def qkv(queries, keys, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, queries), (KV_HEADS, keys), (KV_HEADS, keys)]
    return [torch.randn(1, *shape, WIDTH, generator=generator, dtype=dtype) for shape in shapes]


def by_hand(query, key, value, bias=None):
    """Softmax over what each query may see, head by head."""
    queries, keys = query.shape[2], key.shape[2]
    out = torch.zeros(1, queries, HEADS, WIDTH, dtype=query.dtype)
    for head in range(HEADS):
        group = head // (HEADS // KV_HEADS)
        for at in range(queries):
            seen = keys - queries + at + 1
            logits = key[0, group, :seen] @ query[0, head, at] / math.sqrt(WIDTH)
            if bias is not None:
                row = bias[group if bias.shape[0] > 1 else 0]
                known = min(seen, row.shape[0])
                logits[:known] += row[:known]
            out[0, at, head] = logits.softmax(-1) @ value[0, group, :seen]
    return out


class Flash:
    """Stands in for a flash attention that is not installed: takes no mask, is lower-right causal by itself."""

    def __init__(self):
        self.calls = []

    def __call__(self, named, query, key, value, attention_mask, **options):
        assert attention_mask is None, "a flash kernel adds nothing to the logits"
        assert "position_ids" not in options, "would be read as packed sequences"
        assert named.config._attn_implementation == "flash_attention_2" and named.is_causal
        self.calls.append((named.layer_idx, query.shape[2], key.shape[2]))
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
        mask = mask.tril(key.shape[2] - query.shape[2])
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=options["scaling"], enable_gqa=True
        )
        return out.transpose(1, 2), None


@pytest.fixture
def flash(monkeypatch):
    fake = Flash()
    # A copy of our own mapping hides the global one from nobody else once the test is over.
    monkeypatch.setattr(ALL_ATTENTION_FUNCTIONS, "_local_mapping", {"flash_attention_2": fake})
    return fake


@pytest.mark.parametrize("base", ["sdpa", "eager", "flash_attention_2", "fused", "masked"])
@pytest.mark.parametrize("heads", [None, 1, KV_HEADS])
@pytest.mark.parametrize(("queries", "keys"), SHAPES)
def test_every_kernel_is_lower_right_causal_and_adds_the_bias(
    base, heads, queries, keys, flash, monkeypatch
):
    if base == "fused":  # off CUDA torch runs the same call with a mask: the wiring is tested here
        monkeypatch.setattr(attention, "_can_fuse", lambda *tensors: True)
        base = "sdpa"
    if base == "masked":  # a device for which there is no kernel that needs no mask
        monkeypatch.setattr(attention, "kernel_for", lambda *given: "masked")
        base = "sdpa"
    cached = keys - queries
    bias = torch.rand(heads, cached, dtype=torch.float64) * 3 if heads and cached else None
    tensors = qkv(queries, keys)
    positions = torch.zeros(1, queries, dtype=torch.long)
    with attending(bias=[bias]):
        got, _ = attend(
            module(),
            *tensors,
            None,
            base=base,
            scaling=WIDTH**-0.5,
            dropout=0.0,
            position_ids=positions,
        )
    # Hugging Face's eager functions take the softmax in fp32, whatever the model.
    assert (got - by_hand(*tensors, bias)).abs().max() < (1e-6 if base == "eager" else 1e-12)
    assert len(flash.calls) == (base == "flash_attention_2" and bias is None)


@pytest.mark.parametrize(
    ("base", "queries", "keys", "explicit", "device", "fusible", "expected"),
    [
        ("sdpa", 1, 9, False, "cuda", True, "plain"),
        ("sdpa", 9, 9, False, "cuda", True, "plain"),
        ("sdpa", 5, 9, False, "cuda", True, "fused"),
        ("sdpa", 5, 9, False, "cuda", False, "masked"),
        ("sdpa", 5, 9, True, "cuda", True, "masked"),
        ("sdpa", 1, 9, True, "cuda", False, "masked"),
        ("sdpa", 9, 9, False, "cpu", False, "plain"),
        ("sdpa", 5, 9, False, "cpu", False, "split"),
        ("sdpa", 5, 9, True, "cpu", False, "masked"),
        ("sdpa", 5, 9, False, "mps", False, "masked"),
        ("flash_attention_2", 5, 9, False, "cuda", False, "flash"),
        ("flash_attention_2", 1, 9, False, "cuda", False, "flash"),
        ("kernels-community/flash-attn2", 9, 9, False, "cuda", True, "flash"),
        ("flash_attention_2", 5, 9, True, "cuda", False, "masked"),
        ("eager", 1, 9, False, "cpu", False, "eager"),
        ("eager", 5, 9, True, "cuda", True, "eager"),
    ],
)
def test_the_kernel_follows_from_what_is_asked(
    base, queries, keys, explicit, device, fusible, expected
):
    assert kernel_for(base, queries, keys, explicit, device, fusible) == expected


def test_nothing_is_fused_on_the_cpu():
    assert not attention._can_fuse(*qkv(2, 4, torch.bfloat16))


@pytest.mark.parametrize(
    "base", ["sdpa", "eager", "flash_attention_2", "kernels-community/f-flash"]
)
def test_names_say_the_base_and_never_look_like_a_kernel_of_the_hub(base):
    name = register(base)
    assert register(name) == name == register(base)
    assert name.startswith("x2l_") and "flash" not in name and "/" not in name
    assert attention.AttentionMaskInterface()[name] is plain_or_explicit
    assert ALL_ATTENTION_FUNCTIONS[name].keywords == {"base": base}


def test_two_bases_have_two_names():
    assert len({register("sdpa"), register("eager"), register("flash_attention_2")}) == 3
    assert register() == attention.NAME


def test_no_mask_is_made_where_attention_is_plainly_causal():
    sizes = {"batch_size": 1, "q_length": 3, "kv_length": 5, "q_offset": 2}
    assert plain_or_explicit(**sizes) is None
    square = {"batch_size": 1, "q_length": 5, "kv_length": 5}
    padding = torch.tensor([[False, True, True, True, True]])
    padded = plain_or_explicit(**square, attention_mask=padding)
    assert not padded[0, 0, :, 0].any() and padded[0, 0, 4, 1:].all()
    window = plain_or_explicit(**square, mask_function=sliding_window_causal_mask_function(2))
    assert window[0, 0].sum(-1).tolist() == [1, 2, 2, 2, 2]


def test_a_mask_for_other_keys_is_refused():
    with pytest.raises(ValueError, match="is for 4 keys, layer 0 holds 9"):
        attend(module(), *qkv(2, 9), torch.ones(1, 1, 2, 4, dtype=torch.bool), scaling=1.0)


def test_layers_of_one_length_share_a_mask(monkeypatch):
    made = []
    original = attention.lower_right_mask
    monkeypatch.setattr(attention, "kernel_for", lambda *given: "masked")
    monkeypatch.setattr(
        attention, "lower_right_mask", lambda *a: made.append(a[:2]) or original(*a)
    )
    tensors = qkv(2, 9), qkv(2, 9), qkv(2, 7)
    with attending():
        for one in tensors:
            attend(module(), *one, None, scaling=1.0)
    assert made == [(2, 9), (2, 7)]
    with attending():
        attend(module(), *tensors[0], None, scaling=1.0)
    assert made == [(2, 9), (2, 7), (2, 9)], "a mask does not outlive its `with`"


def with_base(base):
    """The tiny model, computing with another attention."""
    model = copy.deepcopy(ours("qwen2_5_vl"))
    model.decoder.set_attn_implementation(register(base))
    return model


def first_logits(model, compressor, ratio):
    levels = {"low": Level(compressor, ratio), "high": Level(compressor, 2 * ratio)}
    store = prefill(model, model.prompt(frames(14), 4), levels, context="low")
    return answer(
        model, store, model.question("What is it?"), store.reloading((1,)), max_new_tokens=1
    ).first_logits


@pytest.mark.parametrize("compressor", [KeyNorm(), ToMe()])
@pytest.mark.parametrize("ratio", [1, 3])
def test_the_whole_way_is_the_same_with_every_attention(compressor, ratio, flash, monkeypatch):
    want = first_logits(with_base("sdpa"), compressor, ratio)
    assert (first_logits(with_base("eager"), compressor, ratio) - want).abs().max() < 2e-5
    assert not flash.calls
    got = first_logits(with_base("flash_attention_2"), compressor, ratio)
    assert (got - want).abs().max() < 2e-5
    # Spans that saw only KVs of weight 1: of four chunks and a question. The first chunk sees the prefix only, later
    # ones the L-KVs before them, the question H-KVs too.
    spans = 5 if isinstance(compressor, KeyNorm) else 4 if ratio == 1 else 1
    assert len([call for call in flash.calls if 1 < call[1] < call[2]]) == 4 * spans
    assert {layer for layer, *_ in flash.calls} == {0, 1, 2, 3}
    monkeypatch.setattr(attention, "_can_fuse", lambda *tensors: True)
    assert (first_logits(with_base("sdpa"), compressor, ratio) - want).abs().max() < 2e-5


@pytest.mark.parametrize("base", ["sdpa", "eager", "flash_attention_2"])
def test_queries_are_seen_whatever_the_kernel(base, flash):
    tensors, capture = qkv(3, 7), AttentionCapture(want_keys=True)
    with attending(capture=capture):
        attend(module(), *tensors, None, base=base, scaling=0.25)
    assert torch.equal(capture.queries[0], tensors[0]) and torch.equal(capture.keys[0], tensors[1])
    assert capture.scaling == {0: 0.25}


@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_bias_of_a_kv_head_goes_to_the_query_heads_that_share_it(batch):
    bias = torch.rand(*batch, 2, 4)
    query, mask = torch.zeros(3, 6, 2, 8), torch.ones(1, 1, 2, 5, dtype=torch.bool)
    got = attention._biased(mask, bias, query, 5).expand(3, 6, 2, 5)
    for row, head in itertools.product(range(3), range(6)):
        of_row = bias[row] if batch else bias
        assert torch.equal(got[row, head, :, :4], of_row[head // 3].expand(2, -1))
        assert not got[row, head, :, 4].any()
