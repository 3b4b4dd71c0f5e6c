"""A stock two-tower model of Hugging Face: pictures (or clips) and texts embedded into one space."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import x2l.models  # noqa: F401 - before transformers: it lets the processors import

# isort: split
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.utils.hub import cached_file

from x2l.models.checkpoint import Source, explained, naming
from x2l.models.config_values import check_stock
from x2l.models.flop_counter import flop_counter
from x2l.models.out_of_memory import available_bytes
from x2l.models.tokenizer_files import check_words
from x2l.models.weight_files import check_read, report_withheld
from x2l.selectors import language_bind

DTYPES = ("float32", "bfloat16", "float16")
PACKAGED = {"x2l_tiny_clip": Path(__file__).with_name("x2l_tiny_clip")}


class TwoTowers:
    """CLIP, SigLIP, SigLIP 2, X-CLIP, LanguageBind or a model with their methods. Final; no state between calls.

    Attributes:
        clip_frames: frames that make one clip (X-CLIP, LanguageBind); None where single pictures are embedded.
        flops_view: operations of one picture or clip, as torch's own counter counts them (matrix products).
        flops_text: operations of one text; every text is padded to the model's length.
        fingerprint: tells two sets of weights apart.
    """

    def __init__(self, hf: Any, processor: Any, batch: int = 32) -> None:
        """Wraps a loaded model and its processor.

        Args:
            hf: a model with two towers: `get_text_features`, and `get_image_features` or `get_video_features`.
            processor: its processor, of which the tokenizer and the image processor are used.
            batch: pictures embedded at once.

        """
        self.hf, self.processor, self.batch = hf.eval(), processor, batch
        config = hf.config
        clip = not hasattr(hf, "get_image_features")
        self.clip_frames: int | None = int(config.vision_config.num_frames) if clip else None
        # SigLIP was trained on padded texts without a mask, in lower case, and only so gives its embeddings.
        self._siglip = str(config.model_type).startswith("siglip")
        self._length = int(config.text_config.max_position_embeddings)
        parameter = next(hf.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        black = torch.zeros(self.clip_frames or 1, 32, 32, 3, dtype=torch.uint8)
        self.flops_view = _flops(lambda: self._features(self._pixels(black)))
        self.flops_text = _flops(lambda: self.text("a"))
        self.fingerprint = _fingerprint(hf)

    @staticmethod
    def load(
        name_or_path: str, device: str, dtype: str, revision: str | None, batch: int
    ) -> TwoTowers:
        """Loads a checkpoint with Hugging Face's Auto classes, or LanguageBind's.

        Raises:
            ValueError: a dtype or device that cannot work, a model without two towers, a value that is not supported,
                or a tokenizer without its words.
            OSError: the checkpoint is not there (the message names the command that fetches it), or broken.
        """
        if dtype not in DTYPES:
            raise ValueError(f"selector.retriever.dtype={dtype!r}: must be one of {DTYPES}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"selector.retriever.device={device!r}: torch sees no CUDA device; use cpu"
            )
        source = Source(
            name_or_path,
            str(PACKAGED.get(name_or_path, name_or_path)),
            {"revision": revision},
            "selector.retriever.name_or_path",
        )
        values = _config(source)
        hf, processor = _loaded(source, values, getattr(torch, dtype))
        with explained(source, "its configuration or processor"):
            return TwoTowers(hf.to(device), processor, batch)

    def sampled(self, count: int) -> Tensor:
        """Which of a chunk's `count` frames make its clip, `(clip_frames,)`: spread over it, whatever its length."""
        size = self.clip_frames or 1
        if isinstance(self.hf, language_bind.LanguageBindVideo):
            return language_bind.sampled(count, size)
        return torch.linspace(0, count - 1, size).round().long()

    def pictures(self, pixels: Tensor) -> Tensor:
        """Embeds frames `(F, H, W, 3)` uint8 one by one -> `(F, dim)` of length 1, fp32, on the host."""
        parts = [self._features(self._pixels(part)) for part in pixels.split(self.batch)]
        return torch.cat(parts)

    def clip(self, pixels: Tensor) -> Tensor:
        """Embeds one clip `(clip_frames, H, W, 3)` uint8 -> `(1, dim)` of length 1, fp32, on the host."""
        return self._features(self._pixels(pixels))

    @torch.no_grad()
    def text(self, words: str) -> Tensor:
        """Embeds a text, cut to the model's length -> `(dim,)` of length 1, fp32, on the host."""
        encoded = self.processor.tokenizer(
            words.lower() if self._siglip else words,
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        names = ("input_ids",) if self._siglip else ("input_ids", "attention_mask")
        inputs = {name: encoded[name].to(self.device) for name in names}
        return _unit(self.hf.get_text_features(**inputs))[0]

    def _pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        prepared = self.processor.image_processor(
            list(pixels.permute(0, 3, 1, 2)),
            input_data_format="channels_first",
            return_tensors="pt",
        )
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in prepared.items()
        }

    @torch.no_grad()
    def _features(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.clip_frames is None:
            return _unit(self.hf.get_image_features(**inputs))
        # X-CLIP's published processor makes a video of the frames, others leave them pictures.
        pixels = inputs["pixel_values"]
        clip = pixels if pixels.ndim == 5 else pixels[None]
        return _unit(self.hf.get_video_features(clip))


def _config(source: Source) -> dict[str, Any]:
    revision = source.options["revision"]
    try:
        cached_file(source.path, "config.json", revision=revision)
    except OSError as error:
        wanted = source.name + (f" --revision {revision}" if revision else "")
        raise OSError(
            source.error(
                f"no such checkpoint here and the Hub did not give it ({str(error).splitlines()[0]}); fetch it with "
                f"`hf download {wanted}` or name a local folder"
            )
        ) from error
    values = source.read_object("config.json")
    if values is None:
        what = (
            "it holds no config.json; name the folder that a checkpoint was saved or downloaded to"
        )
        raise OSError(source.error(what))
    return values


def _loaded(source: Source, values: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    kind = str(values.get("model_type"))
    if kind == language_bind.MODEL_TYPE:
        hf, processor = language_bind.load(source, values)
        return hf.to(dtype), processor
    if kind.startswith("LanguageBind"):
        what = f"model type {kind!r} takes no video; use LanguageBind/LanguageBind_Video_FT"
        raise ValueError(source.error(what))
    with explained(source, "its config.json"):
        config = AutoConfig.from_pretrained(source.path, **source.options)
    with naming(source):
        check_stock(config)
    with explained(source, "its config.json"), torch.device("meta"):
        hollow = AutoModel.from_config(copy.deepcopy(config), dtype=dtype)
    needed = sum(parameter.nbytes for parameter in hollow.parameters())
    free = available_bytes(torch.device("cpu"))
    if free is not None and needed > free:
        what = f"out of memory: its weights ({needed / 1e9:.1f} GB) do not fit on the host ({free / 1e9:.1f} GB free)"
        raise ValueError(source.error(f"{what}; use a smaller checkpoint"))
    with report_withheld(), explained(source, "its weights or its config.json"):
        stock, info = AutoModel.from_pretrained(
            source.path,
            config=config,
            dtype=dtype,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **source.options,
        )
    pictures = hasattr(stock, "get_image_features") or hasattr(stock, "get_video_features")
    if not hasattr(stock, "get_text_features") or not pictures:
        raise ValueError(
            source.error(
                f"a checkpoint of model type {stock.config.model_type!r} has no text and picture towers; use a CLIP, "
                "SigLIP, SigLIP 2, X-CLIP or LanguageBind (video)"
            )
        )
    check_read(source, info)
    with explained(source, "its processor"):
        processor = AutoProcessor.from_pretrained(source.path, **source.options)
    parts = ("tokenizer", "image_processor")
    if missing := [part for part in parts if getattr(processor, part, None) is None]:
        raise ValueError(
            source.error(
                f"its processor ({type(processor).__name__}) has no {missing[0]}; preprocessor_config.json is missing "
                "from the checkpoint: fetch it"
            )
        )
    with naming(source):
        check_words(processor.tokenizer)
    return stock, processor


def _unit(features: Any) -> Tensor:
    pooled: Tensor = features.pooler_output.float()
    return torch.nn.functional.normalize(pooled, dim=-1).cpu()


def _flops(call: Callable[[], object]) -> int:
    with flop_counter() as counter:
        call()
    return int(counter.get_total_flops())


def _fingerprint(hf: Any) -> str:
    digest = hashlib.sha256()
    for line in _values(hf):
        digest.update(line)
    return digest.hexdigest()[:8]


def _values(hf: Any) -> Iterator[bytes]:
    """Name, shape and first values of every parameter: enough to tell checkpoints apart, read in no time."""
    for name, parameter in sorted(hf.named_parameters()):
        first = parameter.detach().flatten()[:64].float().cpu()
        yield f"{name} {tuple(parameter.shape)} {first.tolist()}".encode()
