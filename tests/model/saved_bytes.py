"""Counts what autograd saves in one forward pass of a tiny model, in every configuration, and prints it as JSON.

Run as a program by test_memory.py in a separate process, with the kernels interpreted on the CPU: they save the
same as on a GPU. Argument: a JSON list of [ModelConfig fields, whether in bf16].
"""

import json
import sys

import torch

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.objectives import NextToken


def saved_bytes(config: ModelConfig, batch: int, bf16: bool) -> int:
    """Bytes of the distinct storages that the backward would read, parameters and tables left out."""
    torch.manual_seed(0)
    model = TransformerLM(config)
    ids = torch.randint(0, config.vocab_size, (batch, config.context_length + 1))
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # kept alive, so that no address is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective = NextToken()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            objective.loss(model, *objective.tensors(ids.numpy(), torch.device("cpu")))
    return sum(size for size, _ in kept.values())


if __name__ == "__main__":
    from tests.kernels.interpreted import fast_interpreter

    fast_interpreter.install()
    print(
        json.dumps([saved_bytes(ModelConfig(**fields), 2, bf16) for fields, bf16 in json.loads(sys.argv[1])])
    )
