"""What a checkpoint is, found out before any of its weights is read: where it lies, its configuration, its processor.

Whatever is wrong with it is one line: field, value, what is wrong, remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    VIDEO_PROCESSOR_MAPPING,
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.hub import cached_file, has_file

from x2l.models.config_values import check_stock
from x2l.models.families import FAMILIES, REFUSED
from x2l.models.huggingface import check_supported
from x2l.models.original_layouts import OriginalLayout, layout_of
from x2l.models.tokenizer_files import check_words

PACKAGED = {"x2l_tiny": Path(__file__).with_name("x2l_tiny")}
# Models that cannot know the world, and what they were made for.
MADE_FOR = {"x2l_tiny": "ten shapes in eight colours, in generated videos (benchmark=needle)"}
_TIMEOUT = 10.0  # seconds that the Hub has to answer
_PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
_ADAPTER = "adapter_config.json"
_LONGEST = 300  # characters of a reason; some of transformers' list all that they know


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies.

    Attributes:
        name: as the user gave it, for errors.
        path: folder, or repository of the Hub.
        options: what every `from_pretrained` is given: revision, trust_remote_code, local_files_only.
        setting: that names it, for errors.
    """

    name: str
    path: str
    options: Mapping[str, Any]
    setting: str = "model.name_or_path"

    def error(self, what: str) -> str:
        """One line about this checkpoint."""
        return f"{self.setting}={self.name!r}: {what}"

    def has(self, file: str) -> bool:
        """Whether the folder or repository holds a file.

        Raises:
            OSError: the Hub refuses to tell.
        """
        with explained(self, f"its {file}"):
            return bool(has_file(self.path, file, **self._hub()))

    def fetched(self, file: str) -> str | None:
        """Where a file lies on this machine, fetched from the Hub if need be; None = there is no such file.

        Raises:
            OSError: the Hub refuses it.
        """
        with explained(self, f"its {file}"):
            path = cached_file(
                self.path, file, _raise_exceptions_for_missing_entries=False, **self._hub()
            )
        return None if path is None else str(path)

    def read_object(self, file: str) -> dict[str, Any] | None:
        """A JSON file, which must hold an object; None = there is no such file.

        Raises:
            OSError: it is broken, or holds something else.
        """
        path = self.fetched(file)
        if path is None:
            return None
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise OSError(
                self.error(f"its {file} is no JSON ({error}); fetch the file again")
            ) from error
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise OSError(
                self.error(f"its {file} must hold a JSON object, not a {kind}; fetch it again")
            )
        return values

    def _hub(self) -> dict[str, Any]:
        names = ("revision", "local_files_only")
        return {name: self.options[name] for name in names if name in self.options}


def locate(name_or_path: str, revision: str | None, trust_remote_code: bool) -> Source:
    """Finds a checkpoint: in the package, in a folder, in the Hub's cache on this machine, or on the Hub.

    Raises:
        OSError: there is none.
    """
    path = str(PACKAGED.get(name_or_path, name_or_path))
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    source = Source(name_or_path, path, options)
    if Path(path).is_dir():
        return source
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise OSError(
            source.error(
                "no such folder; give a checkpoint's folder, x2l_tiny, or the id of a repository on the Hub"
            )
        )
    if _hub_answers():
        return source
    # Without a network every file would be asked for six times, half a minute in all, before the cache is used.
    if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        return Source(name_or_path, path, options | {"local_files_only": True})
    raise OSError(
        source.error(
            f"not in this machine's cache, and {constants.ENDPOINT} cannot be reached; fetch it where "
            f"there is a network with `hf download {name_or_path}`, or name a local folder"
        )
    )


def _hub_answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # of whichever HTTP client the Hub's package uses
        return False
    return True


@contextmanager
def explained(source: Source, what: str) -> Iterator[None]:
    """Turns what transformers raises about a file of the checkpoint into one line.

    Raises:
        OSError: a file is not there or is broken.
        ValueError: a file says what cannot be used.
    """
    try:
        yield
    except Exception as error:  # on a strange value transformers stumbles in every way there is
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(source.error(_reason(source, what, error))) from error


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """What is said inside of the checkpoint's content begins with its name.

    Raises:
        ValueError: as inside.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(source.error(str(error))) from error


def _reason(source: Source, what: str, error: BaseException) -> str:
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    kinds = tuple(map(type, chain))
    if any(issubclass(kind, GatedRepoError) for kind in kinds):
        return (
            f"the repository is gated; accept its terms at {constants.ENDPOINT}/{source.path}, then "
            f"`hf auth login` and `hf download {source.path}`"
        )
    if any(issubclass(kind, RevisionNotFoundError) for kind in kinds):
        return f"has no revision {source.options['revision']!r}; correct model.revision"
    if any(issubclass(kind, RepositoryNotFoundError) for kind in kinds):
        return "there is no such repository on the Hub (for a private one: `hf auth login`)"
    if any(issubclass(kind, LocalEntryNotFoundError) for kind in kinds):
        return f"{what} is missing from this machine's cache; run `hf download {source.path}`"
    return f"{what} cannot be used: {first_sentence(error)}"


def first_sentence(error: BaseException) -> str:
    """An error of a library in one line of bounded length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    if not said or isinstance(error, LookupError | TypeError | AttributeError):
        said = f"{type(error).__name__} {said}".strip()  # their text alone is a name or nothing
    return said[:_LONGEST]


@dataclass(frozen=True)
class Description:
    """What a checkpoint's config.json says.

    Attributes:
        config: of a class that is supported.
        layout: that of its authors' own code, which the configuration was translated from; None = transformers' own.
    """

    config: Any
    layout: OriginalLayout | None = None

    @property
    def original(self) -> dict[str, Any] | None:
        """What the layout's options are, by `model.original` or else the checkpoint; None = it has none."""
        names = self.layout.options if self.layout else {}
        return {key: getattr(self.config, name) for key, name in names.items()} or None


def read_config(source: Source, original: Mapping[str, Any] | None = None) -> Description:
    """The configuration, of a class that is supported.

    Args:
        source: the checkpoint.
        original: values in place of some of a config.json in its authors' layout.

    Raises:
        OSError: it cannot be read.
        ValueError: it is of a model that x2l cannot run, or has no option of that name.
    """
    present = source.read_object("config.json") is not None
    if source.has(
        _ADAPTER
    ):  # with peft installed transformers would read the model that it names instead
        raise ValueError(
            source.error(
                f"it holds {_ADAPTER}, a PEFT adapter to another checkpoint; merge it: "
                "`PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)`, then the "
                "processor with `save_pretrained(folder)`"
            )
        )
    if not present:
        raise OSError(
            source.error(
                "it holds no config.json; name the folder that a checkpoint was saved or downloaded to"
            )
        )
    with explained(source, "its config.json"):
        values, _ = PreTrainedConfig.get_config_dict(source.path, **source.options)
    _check_quantisation(source, values)
    layout = layout_of(values)
    values = values | _chosen(layout, original or {})
    if layout is None:
        _check_class(source, values)
    with explained(source, "its config.json"):
        if layout is None:
            config = AutoConfig.from_pretrained(source.path, **source.options)
        else:
            config = layout.config(values)
            config._commit_hash = values.get("_commit_hash")
    with naming(source):
        check_stock(config)
    check_supported(config)
    return Description(config, layout)


def _chosen(layout: OriginalLayout | None, original: Mapping[str, Any]) -> dict[str, Any]:
    options = {} if layout is None else layout.options
    for name, value in original.items():
        if name not in options:
            rule = f"must be one of {', '.join(options)}" if options else "it has no such options"
            raise ValueError(f"model.original.{name}={value!r}: {rule}; use model.original=null")
    return dict(original)


def _check_quantisation(source: Source, values: Mapping[str, Any]) -> None:
    """Of a method that it does not know transformers would read the weights as if they were plain ones."""
    said = values.get("quantization_config")
    if said is None:
        return
    method = said.get("quant_method") if isinstance(said, Mapping) else said
    known = set(AUTO_QUANTIZATION_CONFIG_MAPPING) | {"bitsandbytes"}
    if method not in known or not isinstance(said, Mapping):
        raise ValueError(
            source.error(
                f"its weights are quantised by {method!r}, which transformers {transformers.__version__} does not "
                "know; use a checkpoint that is not quantised"
            )
        )


def _check_class(source: Source, values: Mapping[str, Any]) -> None:
    kind = values.get("model_type")
    if not isinstance(kind, str | None):
        raise ValueError(source.error(f"its config.json has model_type={kind!r}: must be a text"))
    if kind in FAMILIES:
        return
    config_class = None
    if kind in CONFIG_MAPPING:  # not `.get`: the lazy mapping fills itself on `[...]` only
        config_class = CONFIG_MAPPING[str(kind)]
    if kind is None:
        what = "its config.json names no model_type"
    elif kind in REFUSED:
        what = f"model type {kind!r}: {REFUSED[kind]} (docs/refused.md)"
    elif config_class is None and "auto_map" in values:
        what = (
            f"model type {kind!r} is not a video language model that transformers "
            f"{transformers.__version__} knows (its code lies in the repository); many such models also have a "
            "repository in transformers' own format, often ending in -hf"
        )
    elif config_class is None:
        what = f"model type {kind!r} is not a video language model that transformers {transformers.__version__} knows"
    elif config_class in VIDEO_PROCESSOR_MAPPING:
        what = f"model type {kind!r} takes video, but has not been shown to equal the stock model chunk by chunk"
    elif config_class in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        what = f"model type {kind!r} takes images but no video"
    elif config_class in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = f"model type {kind!r} takes text only"
    else:
        what = f"model type {kind!r} is not a video language model"
    raise ValueError(source.error(f"{what}; use one of type {', '.join(FAMILIES)}"))


def _stored_processor(source: Source, described: Description) -> Any:
    if described.layout is None:
        return AutoProcessor.from_pretrained(source.path, **source.options)
    text = described.config.get_text_config()
    words = AutoTokenizer.from_pretrained(source.path, config=text, **source.options)
    return described.layout.processor(words, described.config)


def read_processor(
    source: Source, described: Description, overrides: Mapping[str, Any] | None = None
) -> Any:
    """The processor, with `overrides` in its video processor, known to make a prompt with a video.

    Raises:
        OSError: a file of it is missing.
        ValueError: it cannot process videos, or has no setting of that name.
    """
    for file in _PROCESSOR_FILES:
        source.read_object(file)
    with explained(source, "its processor"):
        processor = _stored_processor(source, described)
    if getattr(processor, "video_processor", None) is None:
        raise ValueError(
            source.error(
                f"its processor ({type(processor).__name__}) has no video processor; the checkpoint must hold "
                "processor_config.json or video_preprocessor_config.json"
            )
        )
    with naming(source):
        check_words(processor.tokenizer)
    content = [{"type": "video"}, {"type": "text", "text": "What?"}]
    with explained(source, "its chat template"):
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    if overrides:
        processor.video_processor = overridden(processor.video_processor, overrides)
    return processor


def overridden(video_processor: Any, overrides: Mapping[str, Any]) -> Any:
    """A video processor with some settings replaced; a mapping such as `size` replaces the keys it names.

    Raises:
        ValueError: a setting that it does not have.
    """
    values = video_processor.to_dict()
    allowed = set(values) | set(video_processor.valid_kwargs.__annotations__)
    for name, value in overrides.items():
        field = f"model.video_processor.{name}={value!r}"
        if name not in allowed:
            raise ValueError(
                f"{field}: {type(video_processor).__name__} has no such setting; it has "
                f"{', '.join(sorted(values))}"
            )
        before = values.get(name)
        if isinstance(before, Mapping):
            if not isinstance(value, Mapping) or not set(value) <= set(before):
                raise ValueError(
                    f"{field}: must be a mapping with some of the keys {', '.join(sorted(before))}"
                )
            value = {**before, **value}
        values[name] = value
    return type(video_processor).from_dict(values)
