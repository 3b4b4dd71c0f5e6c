"""Does the published LanguageBind run here as the paper's authors ran it? For a machine with its weights (2.1 GB).

    python -m experiments.selection.language_bind film.mp4 "What happens at the end?"
    python -m experiments.selection.language_bind film.mp4 "..." --model LanguageBind/LanguageBind_Video --device cuda

Loading is strict: every weight has its place and size, or it is refused by name. Printed are what config.json says of
the arithmetic, beside what is expected (it was not at hand when this was written), and each chunk's cosine with the
question. What to compare: that cosine with the official package's `video_text_similarity` on the same 8 frames, whose
random flip (p = 0.5, at inference too) must be off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

import x2l
from x2l.selectors.dual_encoder import TwoTowers

EXPECTED = {
    "hidden_act": "gelu",
    "num_frames": 8,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "image_size": 224,
    "lora_r": 0,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a value and a line a chunk; 1 if config.json says something else than expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("question")
    parser.add_argument("--model", default="LanguageBind/LanguageBind_Video_FT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunk-frames", type=int, default=10)
    parser.add_argument("--fps", type=float, default=1.0)
    given = parser.parse_args(arguments)
    towers = TwoTowers.load(given.model, given.device, given.dtype, None, 32)
    weights = sum(parameter.numel() for parameter in towers.hf.parameters())
    print(f"{weights / 1e6:.0f} M parameters (expected: 529), {towers.flops_view / 1e12:.2f} TFLOP")
    vision, other = towers.hf.config.vision_config, 0
    for name, expected in EXPECTED.items():
        value = getattr(vision, name, None)
        other += value != expected
        print(f"vision_config.{name} = {value!r} (expected: {expected!r})")
    frames = x2l.read_frames(given.video, frames=None, fps=given.fps)
    words, count = towers.text(given.question), len(frames.pixels)
    for first in range(0, count, given.chunk_frames):
        after = min(first + given.chunk_frames, count)
        at = first + towers.sampled(after - first)
        cosine = float((towers.clip(frames.pixels[at]) @ words)[0])
        mirrored = float((towers.clip(frames.pixels[at].flip(2)) @ words)[0])
        seconds = (
            f"{float(frames.seconds[first]):7.1f} to {float(frames.seconds[after - 1]):7.1f} s"
        )
        print(f"  {seconds}: {cosine:+.4f} (mirrored {mirrored:+.4f}), frames {at.tolist()}")
    return int(other > 0)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
