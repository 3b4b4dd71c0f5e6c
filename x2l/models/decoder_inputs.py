"""What a stock model's forward would hand to its decoder. Hooks live in a `with`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Captured(Exception):  # noqa: N818 - not an error: it stops a forward once its inputs are known
    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.kwargs = kwargs


def decoder_inputs(hf: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that the language model would receive for these inputs; it does not run itself.

    Raises:
        RuntimeError: the model never calls the decoder that it names.
    """

    def stop(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        raise _Captured(kwargs)

    handle = hf.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        hf(**inputs)
    except _Captured as captured:
        return captured.kwargs
    finally:
        handle.remove()
    raise RuntimeError(
        f"{type(hf).__name__}.get_decoder() was not called in its forward: this model cannot be chunked"
    )


@contextmanager
def last_token_only(hf: Any) -> Iterator[None]:
    """Logits of the last token only; not every family heeds `logits_to_keep` (VideoLLaMA3 does not)."""
    head = hf.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, args: (args[0][:, -1:],))
    try:
        yield
    finally:
        handle.remove()
