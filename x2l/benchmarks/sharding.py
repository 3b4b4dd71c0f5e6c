"""Which part of a set's videos each of several workers takes, so that they end together."""

from collections.abc import Sequence


def shards(seconds: Sequence[float | None], count: int) -> list[int]:
    """The shard of every video.

    Videos are dealt from the longest to the shortest, there and back. Shards so have as many videos each (but one), and
    about as many of every length: they take as long whether a video's cost rises with its length or, beyond
    `video.frames`, does not. Where no length is known, every `count`-th video is of one shard.

    Args:
        seconds: length of each video; None = not known, taken for the mean of the others.
        count: of shards.

    Returns:
        The number of a shard, from 0, for each video.
    """
    known = [length for length in seconds if length is not None]
    if not known:
        return [number % count for number in range(len(seconds))]
    mean = sum(known) / len(known)
    longest_first = sorted(
        range(len(seconds)), key=lambda n: -(mean if (s := seconds[n]) is None else s)
    )
    of_video = [0] * len(seconds)
    for place, video in enumerate(longest_first):
        deal, turn = divmod(place, count)
        of_video[video] = count - 1 - turn if deal % 2 else turn
    return of_video
