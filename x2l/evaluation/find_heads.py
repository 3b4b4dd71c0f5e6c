"""Asks every head of a model for the chunks that questions with known spans are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from x2l.benchmarks.base import Benchmark, Sample
from x2l.compressors.base import Level
from x2l.engine.disk_cache.kept_frames import open_frame_cache
from x2l.engine.ground_truth import gt_chunks
from x2l.evaluation.session import open_session
from x2l.evaluation.settings import ConfigError, Settings, config_errors
from x2l.evaluation.video import sampled_frames
from x2l.models.interface import VideoModel
from x2l.selectors.base import Query
from x2l.selectors.head_scores import Found, look


def questions_to_ask(samples: Sequence[Sample], count: int, evaluated: str) -> list[Sample]:
    """The first questions whose answer is known to lie somewhere.

    Raises:
        ConfigError: the benchmark does not say where answers lie.
    """
    known = [sample for sample in samples if sample.spans]
    if not known:
        raise ConfigError(
            f"benchmark={evaluated.partition('/')[0]}: does not say where answers lie, so heads cannot be found on it; "
            "use benchmark=needle"
        )
    return known[:count]


def find_heads(
    model: VideoModel,
    benchmark: Benchmark,
    settings: Settings,
    levels: Mapping[str, Level],
    samples: Sequence[Sample],
    progress: Callable[[], None],
) -> list[Found]:
    """What each head says about each question; of one about the whole video nothing can be learned.

    Args:
        model: the model.
        benchmark: makes the prompts.
        settings: frames, chunks and pre-fill.
        levels: the finest is read.
        samples: by video.
        progress: called after each question.
    """
    with config_errors():
        frame_cache = open_frame_cache(settings.video_cache, settings.video_cache_gb)
    found = []
    for _, group in groupby(samples, key=lambda sample: sample.video_id):
        about = list(group)
        frames = sampled_frames(about[0].video, settings, frame_cache)
        prompt = model.prompt(frames, settings.chunk_frames)
        session = open_session(
            model, frames, prompt, levels, settings.context, settings.positions, settings.seed, {}
        )
        seconds = [second for chunk in prompt.chunks for second in chunk.frame_seconds]
        for sample in about:
            truth = gt_chunks(prompt.chunks, sample.spans or ())
            if 0 < len(truth) < len(prompt.chunks):
                question = model.question(benchmark.prompt(sample, seconds))
                query = Query(question, sample.id, text=sample.question, choices=sample.choices)
                found.append(look(query, session.store, model, truth))
            progress()
    return found
