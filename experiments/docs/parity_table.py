"""Measures how far chunked pre-fill is from stock transformers, family by family, and writes docs/parity.md.

    python -m experiments.docs.parity_table              # about two minutes on two cores
    python -m experiments.docs.parity_table qwen3_vl     # some families, printed only

Tiny random models, the families' own processors, one mp4 file written here. The tests assert the bounds; this shows
what was measured: the largest difference of the first answer token's logits over all chunk sizes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import x2l.models  # noqa: F401 - before transformers: it lets the processors import

# isort: split
import torch
import transformers
from tqdm import tqdm

from tests import llava_video
from tests.parity import (
    RULES,
    chunked_logits,
    chunked_tokens,
    clip,
    dropped_chunk,
    stock_logits,
    stock_tokens,
)
from tests.tiny import ours
from tests.video_xl import CASES, checkpoint, differences, loaded
from x2l.video import Frames

TARGET = Path(__file__).parents[2] / "docs" / "parity.md"
STEPS = (1, 2, 3, 32)  # time steps a chunk
TOKENS = 12
HEAD = """# Chunked pre-fill equals the stock model

Written by `python -m experiments.docs.parity_table`; do not edit. The largest absolute difference between the logits of
the first answer token from chunked pre-fill at ratio 1 (chunks of 1, 2, 3 and 32 time steps, with a short last one) and
from the stock model's own forward on the whole prompt, for tiny random models, each family's own processor and one
H.264 file of {frames} frames. `dropped`: the same when the second chunk's KVs are left out, which shows that the
comparison would notice. Tokens: {tokens} greedy tokens against `generate`. bf16 rounds every operation, so chunks of
other sizes differ there. Rule `hf`: nothing of ours is told to the stock model; `reference`: prompt and positions of
transformers 4 (see `model.positions`). GLM-4.5V's router works in fp32 whatever the weights are.

torch {torch}, transformers {transformers}, CPU, commit {commit}.

| family | rule | largest logit | fp32 | fp64 | bf16 | dropped | tokens equal |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
OFFICIAL = """
## Video-XL equals the official code

Largest absolute differences from what the official classes of Video-X2L (commit 3134dc5b, transformers 4.47.1) gave
for a tiny random checkpoint in their layout, through loading, pre-fill, mixed cache and answer: KVs before RoPE of
text and summary tokens; logits of question and answer over all-high, all-low and a mixed cache (in fp64 those of the
last layer and of the answer). What was recorded lies in `tests/oracles/video_xl`.

| case (ratios; first and last chunk at 2x) | KVs fp32 | logits fp32 | KVs fp64 | logits fp64 | tokens equal |
| --- | --- | --- | --- | --- | --- |
"""

LLAVA_VIDEO = """
## LLaVA-Video and LongVA equal the official code

The same for LLaVA-NeXT df179663 and LongVA f4c8781d (transformers 4.47.1), from official pixels, in fp32 and over
chunks of 1 to 6 frames: embeddings of the video with its newlines, logits and five greedy tokens. What was recorded
lies in `tests/oracles/llava_video`.

| case (pool mode, newlines; `unires` is LongVA) | embeddings | logits | tokens equal |
| --- | --- | --- | --- |
"""


def measure(family: str, rule: str, video: Frames) -> str:
    """One row of the table."""
    patch = ours(family, torch.float32, rule).temporal_patch
    worst, largest = {}, 0.0
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        want = stock_logits(family, video, dtype, rule)
        got = [chunked_logits(family, video, dtype, rule, steps * patch) for steps in STEPS]
        worst[dtype] = max(float((logits - want).abs().max()) for logits in got)
        largest = max(largest, float(want.abs().max()))
    tokens = "-"  # `generate` knows nothing of the reference rule
    if rule == "hf":
        same = chunked_tokens(family, video, rule, 2 * patch, TOKENS) == stock_tokens(
            family, video, TOKENS
        )
        tokens = "yes" if same else "NO"
    numbers = " | ".join(f"{worst[d]:.1e}" for d in worst)
    dropped = dropped_chunk(family, video, rule)
    return f"| {family} | {rule} | {largest:.1f} | {numbers} | {dropped:.1f} | {tokens} |"


def measure_official(case: str, folder: Path) -> str:
    """One row of the second table."""
    found = [differences(loaded(folder, dtype), case) for dtype in ("float32", "float64")]
    numbers = " | ".join(f"{each.kvs:.1e} | {each.logits:.1e}" for each in found)
    same = "yes" if all(each.same_tokens for each in found) else "NO"
    return f"| `{case}` | {numbers} | {same} |"


def measure_llava_video(case: str, folder: Path) -> str:
    """One row of the third table."""
    model = llava_video.loaded(folder / case, case)
    measured = [llava_video.differences(model, case, size) for size in range(1, 7)]
    worst = [max(each.embeds for each in measured), max(each.logits for each in measured)]
    same = "yes" if all(each.same_tokens for each in measured) else "NO"
    return f"| `{case}` | {worst[0]:.1e} | {worst[1]:.1e} | {same} |"


def _commit() -> str:
    """The commit that is measured; its page lies in the one after it."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the page if every family was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="default: all")
    chosen = parser.parse_args(arguments).families
    unknown = sorted(set(chosen) - {family for family, _ in RULES})
    if unknown:
        parser.error(f"families={unknown}: must be some of {sorted({f for f, _ in RULES})}")
    with tempfile.TemporaryDirectory() as folder:
        video = clip(Path(folder))
        page = HEAD.format(
            frames=len(video.seconds),
            tokens=TOKENS,
            torch=torch.__version__,
            transformers=transformers.__version__,
            commit=_commit(),
        )
        rules = [rule for rule in RULES if not chosen or rule[0] in chosen]
        for family, rule in tqdm(rules, disable=not sys.stderr.isatty()):
            page += measure(family, rule, video) + "\n"
        if not chosen or "video_xl" in chosen:
            page += OFFICIAL
            official = checkpoint(Path(folder) / "video_xl")
            page += "".join(measure_official(case, official) + "\n" for case in CASES)
        if not chosen or "llava_video" in chosen:
            page += LLAVA_VIDEO
            cases = llava_video.CASES
            page += "".join(measure_llava_video(case, Path(folder)) + "\n" for case in cases)
    print(page)
    if not chosen:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
