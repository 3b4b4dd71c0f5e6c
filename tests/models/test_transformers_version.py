"""What differs between versions of transformers; that the rest does not is shown by experiments/docs/versions.py."""

import inspect

import pytest
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from x2l.models.transformers_version import CACHE


@pytest.mark.parametrize(
    "model", [LlavaOnevisionForConditionalGeneration, Qwen2_5_VLTextModel], ids=lambda m: m.__name__
)
def test_forward_takes_the_cache_by_this_name(model):
    assert CACHE in inspect.signature(model.forward).parameters
