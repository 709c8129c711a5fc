import torch

from lmfast.model.config import ModelConfig
from lmfast.model.kv_cache import KVCache
from lmfast.model.memory import kv_cache_bytes_per_token

CONFIG = ModelConfig(vocab_size=9, d_model=16, num_layers=3, num_heads=4, num_kv_heads=2).resolved()


def make() -> KVCache:
    return KVCache(CONFIG, 2, 6, torch.device("cpu"), torch.float32)


def test_shapes_and_bytes():
    cache = make()
    assert len(cache.layers) == 3
    assert cache.layers[0].k.shape == (2, 2, 6, 4)
    assert kv_cache_bytes_per_token(CONFIG, 4) * 2 * 6 == sum(t.numel() for t in cache.tensors) * 4


def test_a_view_shares_memory():
    cache = make()
    cache.view(4)[2].k.fill_(1.0)
    assert int((cache.layers[2].k == 1).sum()) == 2 * 2 * 4 * 4


def test_some_sequences_are_filled_and_the_others_left():
    cache = make()
    k, v = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    cache.for_rows(torch.tensor([1]))[2].fill(k, v)
    assert torch.equal(cache.layers[2].k[1, :, :3], k[0]) and torch.equal(cache.layers[2].v[1, :, :3], v[0])
    assert int(sum((t != 0).sum() for t in cache.tensors)) == 2 * k.numel()
    cache.for_rows(None)[0].fill(torch.ones(2, 2, 5, 4), torch.ones(2, 2, 5, 4))
    assert int((cache.layers[0].k == 1).sum()) == 2 * 2 * 5 * 4


def test_a_part_of_a_prompt_is_written_after_those_before_it():
    cache = make()
    first, second = torch.randn(2, 2, 2, 2, 4), torch.randn(2, 2, 2, 3, 4)
    for rows in (None, torch.tensor([1, 0])):
        k, v = cache.for_rows(rows)[1].fill(*first)
        assert torch.equal(k, first[0]) and torch.equal(v, first[1])
        k, v = cache.for_rows(rows, begin=2)[1].fill(*second)
        assert torch.equal(k, torch.cat([first[0], second[0]], 2))
        assert torch.equal(v, torch.cat([first[1], second[1]], 2))
        places = slice(None) if rows is None else rows
        assert torch.equal(cache.layers[1].k[places, :, :5], k) and not cache.layers[1].k[:, :, 5:].any()


def test_the_first_sequences_share_memory():
    cache, lengths = make(), torch.tensor([3])
    part = cache.first(1, lengths)
    part.view(4)[2].v.fill_(1.0)
    assert part.lengths is lengths and part.max_length == cache.max_length
    assert int((cache.layers[2].v == 1).sum()) == 2 * 4 * 4 and not cache.layers[2].v[1].any()
    part.clear()
    assert not cache.layers[2].v.any()


def test_clear_zeroes_all_layers():
    cache = make()
    for tensor in cache.tensors:
        tensor.fill_(float("nan"))
    cache.clear()
    assert not any(tensor.any() for tensor in cache.tensors)


def test_no_two_caches_share_memory():
    """Views of one tensor made torch.compile copy the whole cache at each layer's append."""
    addresses = {tensor.untyped_storage().data_ptr() for tensor in make().tensors}
    assert len(addresses) == 2 * CONFIG.num_layers
