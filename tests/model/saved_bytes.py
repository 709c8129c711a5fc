"""Counts what autograd saves in one forward pass of a tiny model, in every configuration, and prints it as JSON.

Run as a program by test_memory.py in a separate process, with the kernels interpreted on the CPU: they save the
same as on a GPU. Argument: a JSON list of [ModelConfig fields, whether in bf16].

`kept_bytes` measures what exists instead of what autograd saves, and so includes what is recomputed.
"""

import json
import sys

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lmfast.model.config import ModelConfig
from lmfast.model.recomputation import use_checkpointing
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


class _Kept(TorchDispatchMode):
    """Bytes of the tensors made in the forward and in recomputation that exist in the backward: after the forward, and at
    most. What the backward itself makes does not count: it runs without gradients, recomputation runs with them."""

    def __init__(self, own: set[int]):
        super().__init__()
        self.own = own
        self.in_backward, self.peak = False, 0
        self.alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.in_backward and not torch.is_grad_enabled():
            self.peak = max(self.peak, self.bytes())
            return func(*args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, list | tuple) else [found]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() in self.own:
                    continue
                self.alive[StorageWeakRef(storage)] = storage.nbytes()
        return found

    def bytes(self) -> int:
        self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
        return sum(self.alive.values())


def kept_bytes(config: ModelConfig, batch: int, checkpointing: str) -> tuple[int, int]:
    """(bytes kept for the backward, their peak with what is recomputed), parameters, tables and ids left out; in fp32."""
    torch.manual_seed(0)
    model = TransformerLM(config)
    use_checkpointing(model, checkpointing)
    ids = torch.randint(0, config.vocab_size, (batch, config.context_length + 1))
    objective = NextToken()
    tensors = objective.tensors(ids.numpy(), torch.device("cpu"))
    own = {
        t.untyped_storage().data_ptr()
        for t in [*model.parameters(), *model.buffers(), tensors[0], tensors[1]]
    }
    with _Kept(own) as kept:
        loss = objective.loss(model, *tensors)
        size, kept.in_backward = kept.bytes() - loss.nbytes, True
        loss.backward()
    return size, kept.peak


if __name__ == "__main__":
    from tests.kernels.interpreted import fast_interpreter

    fast_interpreter.install()
    print(
        json.dumps([saved_bytes(ModelConfig(**fields), 2, bf16) for fields, bf16 in json.loads(sys.argv[1])])
    )
