"""The growing cache against the stock one."""

import pytest
import torch
from transformers import DynamicCache

from x2l.models.kv_cache import BufferCache


def kvs(tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, tokens, 4, generator=generator), torch.randn(
        1, 2, tokens, 4, generator=generator
    )


def test_updates_like_the_stock_cache():
    ours, stock = BufferCache(2), DynamicCache()
    for step, tokens in enumerate((3, 1, 1, 7, 2)):
        for layer in range(2):
            got, want = (
                cache.update(*kvs(tokens, step * 2 + layer), layer) for cache in (ours, stock)
            )
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        assert ours.get_seq_length() == stock.get_seq_length()
        assert ours.get_mask_sizes(4, 0) == stock.get_mask_sizes(4, 0)


def test_cut_forgets_and_append_goes_on_from_there():
    cache = BufferCache(1)
    keys, values = kvs(5)
    cache.update(keys, values, 0)
    cache.cut((2,))
    more = kvs(3, 1)
    cache.append(0, *more, torch.ones(1, 3))
    assert cache.lengths == (5,)
    assert torch.equal(cache.layers[0].tail(0)[0], torch.cat([keys[:, :, :2], more[0]], dim=2))
    with pytest.raises(ValueError, match="length=9: must lie between 0 and the 5 cached KVs"):
        cache.cut((9,))


def test_weights_become_a_bias_aligned_with_the_keys():
    cache = BufferCache(1)
    cache.update(*kvs(3), 0)
    assert cache.bias == (None,)
    cache.append(0, *kvs(2), torch.ones(1, 2))
    assert cache.bias == (None,)
    cache.append(0, *kvs(2), torch.tensor([[1.0, 4.0], [2.0, 1.0]]))
    assert torch.allclose(
        cache.bias[0].exp(), torch.tensor([[1.0] * 6 + [4.0], [1.0] * 5 + [2.0, 1.0]])
    )
    cache.update(*kvs(1), 0)  # a token without a weight in between
    cache.append(0, *kvs(1), torch.tensor([[3.0]]))
    assert cache.bias[0].shape == (2, 9) and cache.bias[0][0, 7] == 0
    cache.cut((6,))
    assert cache.bias[0].exp().tolist() == [[1.0] * 6, [1.0] * 5 + [2.0]]


def test_room_is_reserved_once():
    cache = BufferCache(1)
    cache.append(0, *kvs(4), torch.ones(1, 4), reserve=10)
    buffer = cache.layers[0].keys
    cache.update(*kvs(10), 0)
    assert cache.layers[0].keys is buffer
    assert cache.nbytes == 2 * 2 * 14 * 4 * 4


def test_filling_with_room_allocates_once():
    """Once too often is a second copy of the whole cache."""
    cache, capacities = BufferCache(1), []
    reserve = cache.layers[0].reserve
    cache.layers[0].reserve = lambda capacity: capacities.append(capacity) or reserve(capacity)
    cache.append(0, *kvs(4), torch.ones(1, 4), reserve=10)
    assert capacities == [14] and cache.layers[0].keys.shape[2] == 14


def test_an_expected_length_is_reserved_at_the_first_kvs():
    cache = BufferCache(2, reserve=20)
    cache.update(*kvs(3), 0)
    buffer = cache.layers[0].keys
    for _ in range(17):
        cache.update(*kvs(1), 0)
    assert cache.layers[0].keys is buffer and buffer.shape[2] == 20
    cache.update(*kvs(1), 0)  # longer than expected: grows all the same
    assert cache.lengths == (21, 0) and cache.layers[0].keys.shape[2] == 40
    cache.update(*kvs(30), 1)
    assert cache.layers[1].keys.shape[2] == 30
