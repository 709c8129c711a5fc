"""Every sublayer enters and leaves its shards once; parallel sublayers share one of each."""

from dataclasses import replace

import pytest
import torch

from lmfast.model.config import ModelConfig
from lmfast.model.kv_cache import KVCache
from lmfast.model.shards import WHOLE, Shards
from lmfast.model.transformer import TransformerLM

CONFIG = ModelConfig(vocab_size=9, context_length=8, d_model=16, num_layers=1, num_heads=4, d_ff=24)


class Doubling(Shards):
    """Two ranks that hold the same weights."""

    def __init__(self):
        self.entered = self.left = 0

    def enter(self, x):
        self.entered += 1
        return x

    def leave(self, x):
        self.left += 1
        return 2 * x


@pytest.mark.parametrize(
    ("arrangement", "number"), [({}, 2), ({"norm": "post"}, 2), ({"parallel_block": True}, 1)]
)
def test_sublayers_enter_and_leave_their_shards(arrangement, number):
    model = TransformerLM(replace(CONFIG, **arrangement)).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        for name in ("attention.out", "feed_forward.down"):
            model.blocks[0].get_submodule(name).weight.mul_(2)
        expected = model(ids)
        for name in ("attention.out", "feed_forward.down"):
            model.blocks[0].get_submodule(name).weight.div_(2)
        shards = model.blocks[0].shards = Doubling()
        torch.testing.assert_close(model(ids), expected)
        assert (shards.entered, shards.left) == (number, number)
        cache = KVCache(model.config, 1, 8, torch.device("cpu"), torch.float32)
        model.prefill(ids[:, :7], cache)
        cache.lengths += 7
        torch.testing.assert_close(model.decode(ids[:, 7], cache, 8), expected[:, 7])


def test_a_whole_model_needs_no_communication():
    x = torch.randn(3)
    assert WHOLE.enter(x) is x and WHOLE.leave(x) is x
