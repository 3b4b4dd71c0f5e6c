"""A reply as the user reads it: text, JSON, and a contact sheet."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from x2l.analysis.units import prefixed
from x2l.cli.ask.clock import clock, is_fine, merged
from x2l.cli.ask.own_video import OwnVideo
from x2l.engine.taking import TOP
from x2l.evaluation.library import Reply
from x2l.evaluation.settings import Settings
from x2l.models.checkpoint import MADE_FOR
from x2l.runs.records import finite
from x2l.runs.run_info import write_json

SPARKS, PLAIN_SPARKS = "▁▂▃▄▅▆▇█", "_.-~+*%#"
MOST_SPARKS = 64
# Of the settings, what an answer depends on.
_SETTINGS = (
    "model",
    "dtype",
    "device",
    "model_positions",
    "frames",
    "fps",
    "chunk_frames",
    "context",
    "positions",
    "levels",
    "max_new_tokens",
    "seed",
)


def head_text(video: OwnVideo) -> str:
    """The video, the settings and the pre-fill, a line each."""
    session, loaded = video.session, video.session.seconds_load
    kept = (
        ""
        if loaded is None
        else f" when it was computed; loaded from prefill.cache in {loaded:.2f} s"
    )
    return "\n".join(
        [
            f"video       {session.path}: {_pictured(video)}, {_counted(len(video.spans), 'chunk')} of "
            f"{video.settings.chunk_frames}",
            f"settings    {_settings_text(video)}",
            *_made_for(video.settings.model),
            f"pre-fill    {session.store.prompt.tokens:,} tokens, {prefixed(video.flops, 'FLOPs')}, "
            f"{video.seconds:.2f} s{kept}",
        ]
    )


def _made_for(model: str) -> list[str]:
    """A warning where a model answers whatever it is shown, and knows next to nothing."""
    name = Path(model).name
    if name not in MADE_FOR:
        return []
    return [
        f"note        {name} knows {MADE_FOR[name]}, and nothing else: about other footage its answers mean nothing; "
        "choose a model that sees the world, e.g. model=qwen2_5_vl_3b"
    ]


def reply_text(video: OwnVideo, reply: Reply, encoding: str) -> str:
    """One reply: answer, re-loaded chunks, relevance, compute against full KVs, seconds.

    Args:
        video: that was asked.
        reply: of it.
        encoding: of where it is printed.
    """
    indent = "\n" + 12 * " "
    cut = f" … (cut off: max_new_tokens={video.settings.max_new_tokens})" if reply.cut_off else ""
    return "\n".join(
        [
            "",
            f"question    {indent.join(reply.question.splitlines())}",
            f"answer      {indent.join(reply.text.splitlines()) or '(empty)'}{cut}",
            f"re-loaded   {_spans_text(video, reply)}",
            *_relevance_lines(reply, encoding, video.settings.level_names),
            f"KV bytes    {_bytes_text(video, reply)}",
            f"compute     {_compute_text(video, reply)}",
            f"seconds     {_seconds_text(video, reply)}",
        ]
    )


def reply_json(video: OwnVideo, reply: Reply, shown: Sequence[int]) -> dict[str, Any]:
    """The same, and every chunk, as plain values.

    Args:
        video: that was asked.
        reply: of it.
        shown: of each chunk the frame that the contact sheet shows.
    """
    session, condition = video.session, video.cell.condition
    settings = {name: value for name, value in asdict(video.settings).items() if name in _SETTINGS}
    choice = {
        "selector": condition.selector,
        "top_k": condition.top_k,
        "pinned": list(condition.pinned),
        "taking": condition.taking,
    }
    return {
        "question": reply.question,
        "answer": reply.text,
        "model_made_for": MADE_FOR.get(Path(video.settings.model).name),
        "cut_off": reply.cut_off,
        "reloaded": list(reply.reloaded),
        "reloaded_seconds": [list(span) for span in merged(video.spans, reply.reloaded)],
        "kv_bytes_stored": reply.kv_bytes_stored,
        "kv_bytes_attended": reply.kv_bytes_attended,
        "kv_bytes_full": session.kv_bytes_full,
        "flops": sum(reply.flops.values()),
        "flops_full": reply.flops_full,
        "seconds": sum(reply.seconds.values()),
        "prefill": {
            "tokens": session.store.prompt.tokens,
            "flops": video.flops,
            "seconds": video.seconds,
            "seconds_load": session.seconds_load,
            "kv_bytes_host": session.store.nbytes_host,
        },
        "video": {
            "path": session.path,
            "duration": video.duration,
            "frames": video.frames,
            "size": list(video.size),
        },
        "settings": settings | choice,
        "chunks": [
            {
                "seconds": list(span),
                "shown": chunk.frame_seconds[frame],
                "relevance": finite(rating),
                "reloaded": index in reply.reloaded,
                "level": level,
            }
            for index, (span, rating, level, chunk, frame) in enumerate(
                zip(
                    video.spans,
                    reply.relevance,
                    reply.assigned,
                    session.store.prompt.chunks,
                    shown,
                    strict=True,
                )
            )
        ],
        "asked": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def save_reply(folder: Path, video: OwnVideo, reply: Reply, pictures: Sequence[Tensor]) -> Path:
    """Writes a contact sheet and a JSON file of the same name, under the next number that is free.

    Args:
        folder: that exists.
        video: that was asked.
        reply: of it.
        pictures: of each chunk's frames, `(frames, height, width, 3)`, uint8.

    Returns:
        The contact sheet.
    """
    from x2l.cli.ask.contact_sheet import (  # matplotlib takes its time
        CUT_OFF,
        SheetChunk,
        draw_sheet,
        save_sheet,
    )

    name = Path(video.session.path).stem
    taken = (re.fullmatch(rf"{re.escape(name)}-(\d+)", path.stem) for path in folder.iterdir())
    number = 1 + max((int(match[1]) for match in taken if match), default=0)
    shown, are_rated = video.matters(reply.question)
    chunks = [
        SheetChunk(span, frames[frame].numpy(), finite(rating), index in reply.reloaded)
        for index, (span, frames, frame, rating) in enumerate(
            zip(video.spans, pictures, shown, reply.relevance, strict=True)
        )
    ]
    name_of_selector = video.cell.condition.selector
    frame_words = f"the frame that {name_of_selector} rates highest"
    if not are_rated:
        frame_words = "the middle frame"
    notes = (
        f"{Path(video.session.path).name}: {_pictured(video)}. {_settings_text(video)}",
        f"KVs: {_bytes_text(video, reply)}. Compute: {_compute_text(video, reply)}. "
        f"Seconds: {_seconds_text(video, reply)}",
        f"Pictures: of each chunk {frame_words}",
    )
    answer = reply.text + CUT_OFF * reply.cut_off
    figure = draw_sheet(
        reply.question, answer, chunks, _levels(video.settings), name_of_selector, notes
    )
    path = folder / f"{name}-{number:02d}.png"
    save_sheet(figure, path)
    write_json(path.with_suffix(".json"), reply_json(video, reply, shown))
    return path


def _pictured(video: OwnVideo) -> str:
    time = clock(video.duration, is_fine([(0.0, video.duration)]))
    return f"{time}, {_counted(video.frames, 'frame')} of {video.size[0]} x {video.size[1]}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _levels(settings: Settings) -> tuple[str, str]:
    """What re-loaded chunks are kept at, and the others."""
    *finer, coarsest = (level.ratio_label for level in settings.levels)
    return ", ".join(finer), coarsest


def _settings_text(video: OwnVideo) -> str:
    """The settings that an answer depends on, in one line."""
    settings, condition = video.settings, video.cell.condition
    choice = condition.selector
    choice += "" if condition.top_k is None else f" top_k={condition.top_k}"
    choice += f" pinned {'+'.join(condition.pinned)}" if condition.pinned else ""
    choice += "" if condition.taking == TOP else f" taking {condition.taking}"
    return "; ".join(
        (
            f"{settings.model} {settings.dtype} on {video.session.model.device}",
            f"{condition.compressor} {', '.join(_levels(settings))}",
            choice,
            f"context {settings.context}, positions {settings.positions}",
        )
    )


def _spans_text(video: OwnVideo, reply: Reply) -> str:
    fine = is_fine(video.spans)
    times = merged(video.spans, reply.reloaded)
    spans = [f"{clock(start, fine)}-{clock(end, fine)}" for start, end in times]
    every = _counted(len(video.spans), "chunk")
    count = str(len(reply.reloaded))
    if len(finer := video.settings.level_names[:-1]) > 1:
        counts = [f"{reply.assigned.count(level)} {level}" for level in finer]
        count = f"{count}, {' and '.join(counts)},"
    return f"{', '.join(spans) or 'none'} ({count} of {every})"


def _relevance_lines(reply: Reply, encoding: str, levels: Sequence[str]) -> list[str]:
    """A bar for each chunk, or for neighbours where there are many, and a mark under re-loaded ones.

    Args:
        reply: with the relevance.
        encoding: of where it is printed.
        levels: names, finest first; `^` marks the finest, `-` those between.
    """
    values = [value for value in reply.relevance if math.isfinite(value)]
    if not values:
        return []
    least, most = min([0.0, *values]), max([0.0, *values])
    try:
        SPARKS.encode(encoding)
        sparks = SPARKS
    except UnicodeEncodeError:
        sparks = PLAIN_SPARKS
    group, bars, marks = -(-len(reply.relevance) // MOST_SPARKS), "", ""
    for first in range(0, len(reply.relevance), group):
        members = range(first, min(first + group, len(reply.relevance)))
        top = max(
            (reply.relevance[i] for i in members if math.isfinite(reply.relevance[i])),
            default=least,
        )
        bars += sparks[round((top - least) / (most - least) * 7)] if most > least else sparks[0]
        ranks = {levels.index(reply.assigned[index]) for index in members}
        marks += "^" if 0 in ranks else "-" if ranks - {len(levels) - 1} else " "
    line = f"relevance   {bars}  {min(values):.3g} to {max(values):.3g}"
    return [line, f"            {marks.rstrip()}"] if reply.reloaded else [line]


def _bytes_text(video: OwnVideo, reply: Reply) -> str:
    full = video.session.kv_bytes_full
    return (
        f"{prefixed(reply.kv_bytes_stored, 'B')} stored ({100 * reply.kv_bytes_stored / full:.1f} %), "
        f"{prefixed(reply.kv_bytes_attended, 'B')} attended, full KVs {prefixed(full, 'B')}"
    )


def _compute_text(video: OwnVideo, reply: Reply) -> str:
    flops = sum(reply.flops.values())
    return (
        f"{prefixed(flops, 'FLOPs')}, over full KVs {prefixed(reply.flops_full, 'FLOPs')} "
        f"({100 * flops / reply.flops_full:.0f} %); "
        f"pre-fill {prefixed(video.flops, 'FLOPs')}"
    )


def _seconds_text(video: OwnVideo, reply: Reply) -> str:
    return f"{sum(reply.seconds.values()):.2f} (pre-fill, once: {video.seconds:.2f})"
