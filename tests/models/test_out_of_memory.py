"""Running out of memory is one line that says what to change, and lets go of what did not fit."""

import gc
import re
import weakref

import pytest
import torch

from tests.tiny import ours
from x2l.models.out_of_memory import (
    MemoryAdvice,
    MemoryShortage,
    available_bytes,
    is_out_of_memory,
)

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated ..."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 3.00 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def explained(doing):
    return MemoryAdvice(2, 2, "bfloat16", "low").explained(doing, 16)


@pytest.mark.parametrize(("chunk_frames", "smaller"), [(10, 4), (8, 4), (6, 2), (4, 2), (2, None)])
def test_smaller_chunks_are_whole_time_steps_of_the_model(chunk_frames, smaller):
    """What is advised is what x2l takes."""
    advice = MemoryAdvice.of(ours("qwen2_5_vl"), chunk_frames, "fine")
    with pytest.raises(MemoryShortage) as caught, advice.explained("x", 16):
        raise MemoryError
    found = re.search(r"prefill\.chunk_frames=(\d+)", str(caught.value))
    assert (found and int(found[1])) == smaller
    assert str(caught.value).endswith("(prefill.context=fine)")


@pytest.mark.parametrize("error", ERRORS)
def test_every_way_of_saying_it_is_recognised_and_becomes_one_line(error):
    assert is_out_of_memory(error)
    with (
        pytest.raises(MemoryShortage) as caught,
        MemoryAdvice(2, 8, "float32", "low").explained("pre-fill of film.mp4", 128),
    ):
        raise error
    message = str(caught.value)
    assert message.startswith(
        "out of memory: pre-fill of film.mp4 (128 frames, 8 a chunk, float32); use fewer frames (video.frames=64), "
        "smaller chunks (prefill.chunk_frames=4), model.dtype=bfloat16"
    )
    assert "\n" not in message


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(MemoryShortage), explained("x"):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_remedies_that_cannot_help_are_left_out():
    with pytest.raises(MemoryShortage) as caught, explained("x"):
        raise MemoryError
    assert "dtype=" not in str(caught.value) and "chunk_frames=" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory")])
def test_other_errors_pass(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error), match=str(error)), explained("x"):
        raise error


def test_an_explained_shortage_is_not_explained_again():
    with (
        pytest.raises(MemoryShortage, match="inner"),
        explained("outer"),
        explained("inner"),
    ):
        raise MemoryError


def test_what_did_not_fit_is_let_go():
    """An exception keeps its frames alive, and these the tensors: the next video would have no room either."""
    kept = []

    def runs_out():
        large = torch.zeros(1000)
        kept.append(weakref.ref(large))
        raise MemoryError

    try:
        with explained("x"):
            runs_out()
    except MemoryShortage:
        gc.collect()
        assert kept[0]() is None
    assert kept


def test_free_memory_is_known():
    free = available_bytes(torch.device("cpu"))
    assert free is None or 1 << 20 < free < 1 << 50
    assert available_bytes(torch.device("meta")) is None
