"""weights.py: the weights of a checkpoint without torch, and what both ways of loading reject."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmfast import load_run
from lmfast.errors import UserError
from lmfast.training.checkpoint import Checkpoint, find_checkpoint, save_tensors
from lmfast.training.loading import build_model
from lmfast.training.weights import mapped_weights


def test_the_arrays_are_those_of_the_model_and_map_the_file(trained_run):
    model, _, config = load_run(trained_run)
    weights = mapped_weights(find_checkpoint(trained_run), config)
    expected = model.named_weights()
    assert weights.keys() == expected.keys()
    for name, array in weights.items():
        assert np.array_equal(array, expected[name].detach().numpy()) and array.flags.c_contiguous
        assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_ff": 5}, r"step_00000006: has another model shape: .*up\.weight is \(.*\), not \(10, 16\)"),
        ({"qkv_bias": True}, r"blocks\.0\.attention\.qkv\.bias is absent, not \(48,\)"),
        ({"norm": "post"}, r"final_norm\.weight is \(16,\), not absent"),
    ],
)
def test_both_ways_of_loading_reject_another_shape(trained_run, changes, message):
    checkpoint, (_, _, config) = find_checkpoint(trained_run), load_run(trained_run)
    for load in (mapped_weights, build_model):
        with pytest.raises(UserError, match=message):
            load(checkpoint, replace(config, **changes))


def test_damaged_files_and_other_types_are_rejected(trained_run, tmp_path):
    checkpoint, (_, _, config) = Checkpoint(tmp_path, {}), load_run(trained_run)
    checkpoint.model_file.write_bytes(b"no header")
    for load in (mapped_weights, build_model):
        with pytest.raises(UserError, match=r"model\.safetensors: cannot be read \(.*\); give another"):
            load(checkpoint, config)
    save_tensors({"embedding.weight": torch.zeros(2, dtype=torch.bfloat16)}, checkpoint.model_file)
    with pytest.raises(UserError, match=r"embedding\.weight is stored as BF16, not F32"):
        mapped_weights(checkpoint, config)
