"""Does the published Video-XL run here as its authors ran it? For a machine with its weights (16.8 GB in float16).

    python -m experiments.paper.video_xl film.mp4 "What happens at the end?"
    python -m experiments.paper.video_xl film.mp4 "..." --model FOLDER --frames 128 --chunks 3,5,7 --device cuda

One pre-fill with summary tokens (2x and 32x, a pass each), without and with the rule for first and last chunk; then the
question over all-high, all-low and the mixed cache, in the official demo's choice of chunks (3, 5, 7) unless others are
given. What to compare: the numbers of KVs with those that follow from the official code, printed beside them; the
answers with those of its `inference.py` on the same file; and MLVU dev, by the commands printed last, with the authors'
notebook: 64.64 % at 2x, 62.67 % at 32x, 64.55 % mixed at top-3 (2,175 questions, 256 frames).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

import x2l
from x2l.compressors.summary_tokens import SummaryTokens
from x2l.engine.flops import kv_bytes
from x2l.evaluation.session import Session
from x2l.models.interface import VideoModel
from x2l.video import Frames

LOW, HIGH, CHUNK, PER_FRAME = 2, 32, 10, 144
NOTEBOOK = "64.64 / 62.67 / 64.55"


def official_kvs(frames: int, selected: Sequence[int], edges: bool, per_frame: int) -> int:
    """Summary tokens of the mixed cache, from the official code's rules alone; whole chunks must divide by 32."""
    chunks = [min(CHUNK, frames - first) * per_frame for first in range(0, frames, CHUNK)]
    ends = (0, len(chunks) - 1) if edges else ()
    fine = {*selected, *ends}
    return sum(tokens // (LOW if index in fine else HIGH) for index, tokens in enumerate(chunks))


def prefilled(model: VideoModel, frames: Frames, edges: bool) -> tuple[Session, float]:
    """The session, and the seconds that it took."""
    method, start = SummaryTokens(LOW if edges else None), time.perf_counter()
    levels = {"low": x2l.Level(method, LOW), "high": x2l.Level(method, HIGH)}
    session = x2l.prefill(model, frames, levels, CHUNK, context="own", positions="compact")
    return session, time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; 1 if a number of KVs is not the official one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("question")
    parser.add_argument("--model", default="sy1998/Video_XL", help="a folder or a repository")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--chunks", default="3,5,7", help="re-loaded in the mixed cache")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    given = parser.parse_args(arguments)
    model = x2l.load(given.model, given.device, given.dtype)
    weights = sum(parameter.numel() for parameter in model.hf.parameters())
    layer = model.hf.config.vision_feature_layer
    print(f"{weights / 1e9:.2f} B parameters (published: 8.40); the tower's hidden state {layer}")
    frames = x2l.read_frames(given.video, frames=given.frames, fps=None)
    wrong = 0
    for edges in (False, True):
        session, seconds = prefilled(model, frames, edges)
        chunks = session.store.prompt.chunks
        per_frame = chunks[0].visual_tokens // len(chunks[0].frame_seconds)
        ends = "first and last chunk at 2x" if edges else "no rule for first and last chunk"
        print(f"\n{ends}: pre-fill of {len(chunks)} chunks in {seconds:.1f} s")
        mixed = [int(chunk) for chunk in given.chunks.split(",") if int(chunk) < len(chunks)]
        for name, selected in (("all-high", []), ("all-low", range(len(chunks))), ("mixed", mixed)):
            assignment = session.store.reloading(tuple(selected))
            tokens = session.question(given.question, given.max_new_tokens)
            decoding = session.decode(tokens, assignment, given.max_new_tokens)
            said = decoding.answer
            prefix = session.store.prompt.prefix
            kvs = said.kv_bytes_attended // kv_bytes(model.shape, 1) - prefix
            official = official_kvs(len(frames.seconds), tuple(selected), edges, per_frame)
            wrong += kvs != official
            sure = math.exp(float(said.first_logits.log_softmax(0).max()))
            print(
                f"  {name:8s} {kvs:6d} KVs (official {official:6d}), {said.kv_bytes_stored / 1e6:8.1f} MB, "
                f"{sum(decoding.meter.seconds.values()):5.1f} s, first token {sure:.0%}: {said.text}"
            )
    print(f"\nMLVU dev against {NOTEBOOK} % (2x / 32x / mixed, top-3 by LanguageBind):")
    base = "x2l -m model=video_xl_7b prefill=paper benchmark=mlvu video=mlvu max_new_tokens=16"
    print(f"  {base} compressor=vst,vst_edges selector=[all,none,languagebind] top_k=3")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
