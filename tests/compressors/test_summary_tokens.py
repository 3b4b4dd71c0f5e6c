"""Where summary tokens stand: by counting, token by token; and what is refused."""

import pytest
import torch

from x2l.compressors.base import Level
from x2l.compressors.summary_tokens import SummaryTokens

CHUNKS = [(160, 160, 160, 64), (1440,) * 3 + (144,), (7, 5, 11), (1, 1, 1), (30,)]


def counted(chunks, ratios):
    """Indices of the summary tokens in each window, one token after the other."""
    windows, waiting = [], 0
    for tokens, ratio in zip(chunks, ratios, strict=True):
        window, at = 0, []
        for _ in range(tokens):
            if waiting == ratio:  # left over from a chunk of a higher ratio
                at.append(window)
                window, waiting = window + 1, 0
            window, waiting = window + 1, waiting + 1
            if waiting == ratio:
                at.append(window)
                window, waiting = window + 1, 0
        windows.append(at)
    return windows


@pytest.mark.parametrize("ratio", [2, 3, 7, 32, 53, 64])
@pytest.mark.parametrize("edge", [None, 2, 5])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_one_stands_behind_every_so_many_tokens_counted_across_chunks(chunks, edge, ratio):
    ends = (0, len(chunks) - 1)
    ratios = [edge if edge and index in ends else ratio for index in range(len(chunks))]
    want, method = counted(chunks, ratios), SummaryTokens(edge)
    carried = 0
    for tokens, of_chunk in zip(chunks, ratios, strict=True):
        if carried > of_chunk or carried + tokens < of_chunk:
            with pytest.raises(ValueError, match="compressor vst: "):
                method.plan(chunks, ratio)
            return
        carried = (carried + tokens) % of_chunk
    plan = method.plan(chunks, ratio)
    assert [insertion.at.tolist() for insertion in plan] == want
    assert method.counts(chunks, ratio) == tuple(map(len, want))
    for tokens, insertion in zip(chunks, plan, strict=True):
        before = insertion.at - torch.arange(insertion.count)  # tokens of the chunk before each
        assert insertion.behind.tolist() == [max(int(n) - 1, 0) for n in before]
        assert int(before[-1]) <= tokens


def test_counts_of_the_paper_and_all_layers_alike():
    tenth = (1440,) * 25 + (864,)
    assert Level(SummaryTokens(), 2).counts(tenth, 2)[-2:] == ((720, 720), (432, 432))
    assert {keeps for keeps, _ in Level(SummaryTokens(), 32).counts(tenth, 2)} == {45, 27}
    edges = [keeps for (keeps,) in Level(SummaryTokens(2), 32).counts(tenth, 1)]
    assert (edges[0], edges[-1], *set(edges[1:-1])) == (720, 432, 45)
    assert sum(edges) == 2232  # KVs of 256 frames


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Level(SummaryTokens(), 1), r"levels\.\*\.ratio=1: must be a whole number of at least 2"),
        (lambda: Level(SummaryTokens(), 2.5), r"levels\.\*\.ratio=2\.5: must be a whole number"),
        (lambda: Level(SummaryTokens(), 4, layers="pyramid"), "layers='pyramid': must be 'uniform'"),
        (lambda: SummaryTokens(1), r"edge_ratio=1: must be a whole number of at least 2, or null"),
        (lambda: SummaryTokens(2).plan([1440] * 3, 64), "32 visual tokens are left over before chunk 2"),
        (lambda: SummaryTokens().plan([16], 32), "ratio=32 leaves no summary token to chunk 0 of 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
