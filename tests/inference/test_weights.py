import gc
import weakref

import torch

from lmfast.inference.weights import WeightAddresses, refresh
from tests.inference.test_decode import build


def test_in_place_changes_move_nothing():
    model = build()
    places = WeightAddresses(model)
    for change in (
        lambda: torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step(),
        lambda: model.load_state_dict(build().state_dict()),
        lambda: model.blocks[1].ffn_norm.weight.mul_(2),
    ):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with torch.no_grad():
            change()
        assert not places.moved()


def test_replaced_weights_have_moved():
    for replace in (
        lambda model: setattr(model.head, "weight", torch.nn.Parameter(model.head.weight.detach().clone())),
        lambda model: model.load_state_dict(build().state_dict(), assign=True),
        lambda model: model.double(),
        lambda model: setattr(model.head.weight, "data", model.head.weight.detach().clone()),
        lambda model: model.blocks.__setitem__(1, build().blocks[1]),
        lambda model: model.reset_tables(),
    ):
        model = build()
        places = WeightAddresses(model)
        replace(model)
        assert places.moved()


def test_the_model_is_not_kept_alive():
    model = build()
    places, alive = WeightAddresses(model), weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None and not places.moved()


def test_refresh_casts_into_the_same_memory():
    for tied in (False, True):
        model = build(tie_embeddings=tied)
        copy = model.with_matrix_dtype(torch.bfloat16)
        before = {name: t.data_ptr() for name, t in copy.named_weights().items()}
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.5)
        refresh(copy, model)
        for name, t in model.with_matrix_dtype(torch.bfloat16).named_weights().items():
            assert torch.equal(copy.named_weights()[name], t), name
        assert {name: t.data_ptr() for name, t in copy.named_weights().items()} == before
