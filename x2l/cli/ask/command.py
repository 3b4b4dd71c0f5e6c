"""`x2l-ask VIDEO "QUESTION" ...`: pre-fills a video once and answers questions about it.

Without a question it asks for them: on a terminal at a prompt, otherwise one a line from its input. Settings are those
of `x2l`, as Hydra overrides after `--`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from x2l import UserError
from x2l.cli.compose import Engine, config_dir, engine
from x2l.cli.output import command, show
from x2l.evaluation.settings import ConfigError, config_errors

# torch, transformers and matplotlib wait until the command line is known to be right.
if TYPE_CHECKING:
    from torch import Tensor

    from x2l.cli.ask.own_video import OwnVideo
    from x2l.evaluation.conditions import Cell
    from x2l.evaluation.library import Reply
    from x2l.models.prompt import Chunk

EXAMPLE = 'x2l-ask film.mp4 "Who opens the door?"'
MAX_NEW_TOKENS = 128
_HALVES = re.compile("[\ud800-\udfff]")  # bytes that Python could not decode stand as these
log = logging.getLogger("x2l.cli.ask.command")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: exit status 2 for what the user can correct, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = words.index("--") if "--" in words else len(words)
    parser, overrides = _parser(), words[split + 1 :]
    options = parser.parse_intermixed_args(words[:split])
    if not options.words:
        parser.error(f"VIDEO is missing: {EXAMPLE}")
    with command(), config_dir(options.config_dir), _steps_shown():
        if _run(options, overrides):
            sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="x2l-ask",
        description="Pre-fills a video once and answers questions about it.",
        usage="x2l-ask [-h] [--save DIR] [--max-new-tokens N] [--config-dir DIR] "
        'VIDEO ["QUESTION" ...] [-- OVERRIDE ...]',
        epilog=r"OVERRIDE: a setting of x2l, e.g. model=qwen2_5_vl_3b video.frames=64 top_k=4. \n in a question "
        "starts a new line.",
    )
    parser.add_argument(
        "words",
        metavar="VIDEO QUESTION",
        nargs="*",
        help="any file that FFmpeg reads; without a question it asks for them",
    )
    parser.add_argument(
        "--save",
        metavar="DIR",
        type=Path,
        help="a contact sheet (PNG) and a JSON file per question",
    )
    parser.add_argument("--config-dir", metavar="DIR", help="yaml files of your own methods")
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=int,
        default=MAX_NEW_TOKENS,
        help="of an answer, at most (default: %(default)s)",
    )
    return parser


@contextlib.contextmanager
def _steps_shown() -> Iterator[None]:
    """Inside, what x2l logs goes to stderr; nothing of other libraries."""
    logger, handler = logging.getLogger("x2l"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> bool:
    """All of it; True if a question from the input had to be refused."""
    path, questions = options.words[0], [_question(text) for text in options.words[1:]]
    _check_words(path, questions)
    typed: Iterator[str] = iter(()) if questions else _typed(path)
    if not questions and not sys.stdin.isatty():  # know that there is one before it takes time
        first = next(typed, None)
        if first is None:
            raise ConfigError(f"question: none is given and the input is empty; try {EXAMPLE}")
        typed = itertools.chain([first], typed)
    x2l_engine = engine([f"max_new_tokens={options.max_new_tokens}", *overrides])
    cell = _cell(x2l_engine)
    if options.save is not None:
        _make_folder(options.save)
    video, pictures = _open(path, x2l_engine, cell, questions, options.save is not None)
    from x2l.cli.ask.reply import head_text

    show(head_text(video))
    refused = False
    for reply in video.ask_all(questions):
        _show(video, reply, options.save, pictures)
    for text in typed:
        try:
            _show(video, video.ask(text), options.save, pictures)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            refused = not sys.stdin.isatty()
    return refused


def _question(text: str) -> str:
    """The words; an argument that a locale without UTF-8 could not read is read as UTF-8.

    Raises:
        ConfigError: it is no UTF-8.
    """
    try:
        text = os.fsencode(text).decode() if _HALVES.search(text) else text
        if "\0" in text:  # UTF-16
            raise UnicodeError
    except UnicodeError as error:
        raise ConfigError(f"question={text!r}: is not UTF-8; save or send it as UTF-8") from error
    return text.replace(r"\n", "\n").strip()


def _check_words(video: str, questions: Sequence[str]) -> None:
    """What can be known to be wrong from the words alone."""
    if not Path(video).is_file():
        kind = "is a folder; name a video in it" if Path(video).is_dir() else "no such file"
        raise ConfigError(f"{video}: {kind}")
    for text in questions:
        if not text:
            raise ConfigError(f"question='': is empty; ask something: {EXAMPLE}")
        if re.fullmatch(r"[~+]{0,2}[a-z][\w.@/]*=\S*", text):
            raise ConfigError(
                f"question={text!r}: looks like a setting; settings come after --: {EXAMPLE} -- {text}"
            )


def _typed(video: str) -> Iterator[str]:
    """Questions from a prompt until an empty line or the end, or from piped input."""
    if not sys.stdin.isatty():
        # Whatever the locale is; and a file may begin with a byte order mark.
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
        yield from (text for line in sys.stdin if (text := _question(line)))
        return
    with contextlib.suppress(ImportError):  # not on every system; then without history and arrows
        import readline  # noqa: F401
    print(f"ask about {video}; an empty line or Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            text = _question(input("\n? "))
        except EOFError:
            print()
            return
        if not text:
            return
        yield text


def _cell(x2l_engine: Engine) -> Cell:
    """The one selector and top_k that answers."""
    from x2l.engine.top_k import GT, TASK
    from x2l.evaluation.conditions import cells

    settings = x2l_engine.settings
    if settings.fewer_frames:
        raise ConfigError(f"control={settings.control}: is for benchmarks; leave it out here")
    choices = {
        "selector": settings.selectors,
        "top_k": settings.top_k,
        "selection.taking": settings.taking,
    }
    for field, values in choices.items():
        if len(values) != 1:
            raise ConfigError(
                f"{field}={list(values)}: x2l-ask answers with one; choose, e.g. {field}={values[0]}"
            )
    with config_errors():
        (cell,) = cells(x2l_engine.selectors, settings)
    condition = cell.condition
    if condition.role == "bound" or condition.top_k == TASK:
        field = f"top_k={condition.top_k}"
        if condition.top_k not in (GT, TASK):
            field = f"selector={condition.selector}"
        raise ConfigError(
            f"{field}: must be told what a benchmark knows of its questions; use selector=attention top_k=2"
        )
    return cell


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--save {folder}: {error.strerror}; name another folder") from error


def _open(
    path: str, x2l_engine: Engine, cell: Cell, questions: Sequence[str], pictured: bool
) -> tuple[OwnVideo, tuple[Tensor, ...]]:
    """Reads the video, loads the model, checks the questions, pre-fills; also thumbnails, if asked for."""
    import x2l.models  # noqa: F401 - before transformers
    from x2l.cli.ask.own_video import (
        check_questions,
        open_video,
        thumbnail_side,
        thumbnails,
    )
    from x2l.engine.disk_cache.cache import open_cache
    from x2l.engine.disk_cache.kept_frames import open_frame_cache
    from x2l.evaluation.video import sampled_frames
    from x2l.models.out_of_memory import MemoryAdvice, reading_explained

    settings, levels = x2l_engine.settings, x2l_engine.levels
    log.info("reading %s", path)
    with config_errors():
        frame_cache = open_frame_cache(settings.video_cache, settings.video_cache_gb)
    with reading_explained(path):
        frames = sampled_frames(path, settings, frame_cache)
    log.info("loading %s", settings.model)
    with config_errors():
        cache = open_cache(settings.prefill_cache, settings.prefill_cache_gb, levels)
        model = x2l_engine.load_model()
        advice = MemoryAdvice.of(model, settings.chunk_frames, settings.level_names[0])
        with advice.explained(f"preparing {path}", len(frames.seconds)):
            prompt = model.prompt(frames, settings.chunk_frames)
        check_questions(model, prompt, levels, settings, cell, questions)
    pictures: list[Tensor] = []
    side = thumbnail_side(len(frames.seconds))

    def watch(chunk: Chunk, pixels: Tensor) -> None:
        pictures.append(thumbnails(pixels, side))

    shown = watch if pictured else None
    video = open_video(model, frames, prompt, levels, cell, settings, advice, cache, shown)
    return video, tuple(pictures)


def _show(video: OwnVideo, reply: Reply, folder: Path | None, pictures: Sequence[Tensor]) -> None:
    from x2l.cli.ask.reply import reply_text, save_reply

    read = show(reply_text(video, reply, sys.stdout.encoding or "ascii"))
    if folder is not None:
        show(f"saved       {save_reply(folder, video, reply, pictures)}")
    elif not read:
        sys.exit(0)  # nothing of further answers would be left


if __name__ == "__main__":
    main()
