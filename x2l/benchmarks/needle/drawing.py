"""Pictures of a needle scene: a slow, pale, moving haystack and the needles on it. NumPy only."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from x2l.benchmarks.needle.scene import CENTRE, Needle

RGB = {
    "red": (225, 30, 35),
    "green": (25, 160, 40),
    "blue": (35, 60, 235),
    "yellow": (245, 230, 30),
    "purple": (150, 35, 190),
    "cyan": (30, 215, 225),
    "orange": (250, 135, 20),
    "white": (255, 255, 255),
}
EDGE = 20  # grey level of a needle's dark outline
OVERSAMPLING = 4  # each pixel of a shape's mask is the mean of 4 x 4 points


@lru_cache(maxsize=4096)
def shape_mask(shape: str, pixels: float, grow: float, side: int, x: float, y: float) -> np.ndarray:
    """How much of each pixel a shape covers.

    Args:
        shape: one of `needle_scene.SHAPES`.
        pixels: side of the shape in pixels.
        grow: the shape is drawn larger by that share (for the outline).
        side: side of the frame's square in pixels.
        x: centre of the shape, pixels from the left.
        y: centre of the shape, pixels from the top.

    Returns:
        (side, side, 1), float32, 0 to 1.
    """
    points = (np.arange(side * OVERSAMPLING) + 0.5) / OVERSAMPLING
    half = pixels * (1 + grow) / 2
    # Only pixels that the shape's box touches are looked at.
    columns, rows = (
        slice(max(int(centre - half) - 1, 0), max(min(int(centre + half) + 2, side), 0))
        for centre in (x, y)
    )
    across, down = (
        points[part.start * OVERSAMPLING : part.stop * OVERSAMPLING] for part in (columns, rows)
    )
    u, v = np.meshgrid((across - x) / half, (down - y) / half)  # -1..1 inside the shape's box
    inside = _inside(shape, u, v) & (np.abs(u) <= 1) & (np.abs(v) <= 1)
    cells = inside.reshape(
        rows.stop - rows.start, OVERSAMPLING, columns.stop - columns.start, OVERSAMPLING
    )
    mask = np.zeros((side, side, 1), dtype=np.float32)
    mask[rows, columns, 0] = cells.mean((1, 3), dtype=np.float32)
    mask.flags.writeable = False
    return mask


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points (u right, v down, both -1..1) lie inside a shape."""
    radius = np.hypot(u, v)
    if shape == "circle":
        return radius <= 0.95
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.82
    if shape == "triangle":
        return (v <= 0.85) & (np.abs(u) <= (v + 0.95) * 0.53)
    if shape == "star":
        angle = np.arctan2(u, -v) % (2 * np.pi / 5)
        angle = np.minimum(angle, 2 * np.pi / 5 - angle)
        outer, inner, half = 1.0, 0.4, np.pi / 5
        # the straight edge from the tip (angle 0) to the notch (angle pi / 5), in polar form
        edge = outer * inner * np.sin(half)
        return radius <= edge / (outer * np.sin(angle) + inner * np.sin(half - angle))
    if shape == "cross":
        return (np.minimum(np.abs(u), np.abs(v)) <= 0.28) & (radius <= 1.3)
    if shape == "ring":
        return (radius <= 0.97) & (radius >= 0.55)
    if shape == "heart":
        x, y = u * 1.2, -v * 1.2 + 0.12
        return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0
    if shape == "diamond":
        return np.abs(u) * 1.35 + np.abs(v) <= 1
    if shape == "moon":
        return (radius <= 0.97) & (np.hypot(u - 0.45, v) > 0.75)
    if shape == "arrow":
        shaft = (np.abs(v) <= 0.24) & (u >= -0.95) & (u <= 0.2)
        head = (u >= 0.0) & (np.abs(v) <= (0.97 - u) * 0.85)
        return shaft | head
    raise ValueError(f"shape={shape!r}: not a shape of the needle benchmark")


class Haystack:
    """The background: coloured waves and soft blobs that drift slowly. Same seed, same pictures."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        """Draws the waves and blobs; `rng` is not used after that."""
        self.x = np.arange(width, dtype=np.float32) / width
        self.y = np.arange(height, dtype=np.float32) / height
        self.base = rng.uniform(70, 150, 3) * 0.35 + rng.uniform(80, 140) * 0.65
        self.waves = [
            (rng.normal(0, 4.5, 2), rng.uniform(0.2, 0.9), rng.uniform(0, 6.3)) for _ in range(5)
        ]
        self.blobs = [
            (rng.uniform(0, 6.3, 2), rng.uniform(0.05, 0.25, 2), rng.uniform(0.12, 0.3))
            for _ in range(3)
        ]
        # (waves + blobs, 3): how each tints the picture
        self.tints = np.concatenate([rng.normal(0, 9, (5, 3)), rng.normal(0, 20, (3, 3))])

    def frame(self, second: float) -> np.ndarray:
        """(height, width, 3), float32, grey levels 0 to 255."""
        fields = []
        for (kx, ky), speed, phase in self.waves:
            turn = np.float32(speed * second + phase)
            fields.append(np.sin(kx * self.x + (ky * self.y)[:, None] + turn, dtype=np.float32))
        for angles, speeds, size in self.blobs:
            cx, cy = 0.5 + 0.45 * np.sin(angles + speeds * second)
            across = np.exp(-((self.x - cx) ** 2) / (2 * size**2))
            down = np.exp(-((self.y - cy) ** 2) / (2 * size**2))
            fields.append(down[:, None] * across)
        image = np.stack(fields, -1, dtype=np.float32) @ self.tints.astype(np.float32)
        return np.clip(image + self.base.astype(np.float32), 20, 205)


def draw_needle(image: np.ndarray, needle: Needle, card: np.ndarray) -> np.ndarray:
    """The frame with a needle in it.

    Args:
        image: (height, width, 3), float32, the haystack.
        needle: what to draw.
        card: (3,), the colour of the card that replaces the frame, for an inserted needle.

    Returns:
        (height, width, 3), float32; `image` is left as it was.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    base = np.broadcast_to(card, image.shape) if needle.kind == "insert" else image
    out = np.array(base, dtype=np.float32)
    fx, fy = (
        (0.5, 0.5)
        if needle.place == CENTRE
        else (
            0.25 + 0.5 * (needle.place % 2),
            0.25 + 0.5 * (needle.place // 2),
        )
    )
    x = fx * width + needle.shift[0] * side
    y = fy * height + needle.shift[1] * side
    pixels = needle.size * side
    left, top = int(x - side / 2), int(y - side / 2)
    cx, cy = round(x - left, 2), round(y - top, 2)
    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    for grow, colour in ((0.16, (EDGE, EDGE, EDGE)), (0.0, RGB[needle.colour])):
        mask = shape_mask(needle.shape, pixels, grow, side, cx, cy)
        part = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        out[rows, columns] += part * (np.array(colour, np.float32) - out[rows, columns])
    return out


def draw_video(
    rng: np.random.Generator,
    scene: Sequence[Needle],
    seconds: float,
    fps: float,
    width: int,
    height: int,
) -> Iterator[np.ndarray]:
    """Draws every frame of a video, one at a time.

    Args:
        rng: chance for the haystack and the cards.
        scene: the needles.
        seconds: length of the video.
        fps: frames per second.
        width: pixels.
        height: pixels.

    Yields:
        (height, width, 3), uint8, RGB.
    """
    haystack = Haystack(rng, width, height)
    cards = rng.uniform(40, 170, (len(scene), 1)) + rng.normal(0, 12, (len(scene), 3))
    for number in range(round(seconds * fps)):
        second = number / fps
        image = haystack.frame(second)
        for needle, card in zip(scene, cards, strict=True):
            if needle.span[0] <= second < needle.span[1]:
                image = draw_needle(image, needle, card)
        yield np.clip(image + 0.5, 0, 255).astype(np.uint8)
