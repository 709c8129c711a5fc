"""Detects whether the weights of a model have moved since a decoder captured their addresses.

A captured graph reads fixed addresses. Weights updated in place, as by an optimizer, keep their addresses, so the graph
reads the new values. Copies in another dtype are refreshed in place at each call, because changes cannot be detected:
torch's fused optimizers and writes through `.data` do not change the version of a tensor. Replaced weights need a new
decoder.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lmfast.model.transformer import TransformerLM, in_matrix_dtype


class WeightAddresses:
    """The addresses of the weights and buffers of `model`, without keeping the model itself alive.

    Reads the dictionaries of the modules directly, because this runs at every call and walking the modules is slower.
    """

    def __init__(self, model: TransformerLM):
        # (dictionary of a module, name, weak reference to its value) of submodules, parameters and buffers
        self._held: list[tuple[dict[str, Any], str, Callable[[], object]]] = [
            (table, name, _reference(table[name]))
            for module in model.modules()
            for table in (module._modules, module._parameters, module._buffers)
            for name in table
            if name != "unused_ids"  # the decoder has its own
        ]
        self._places = [(table, name) for table, name, _ in self._held if isinstance(table[name], Tensor)]
        self._addresses = [t.data_ptr() for t in self._tensors()]

    def moved(self) -> bool:
        """Whether any tensor has been replaced or moved since construction."""
        return any(held() is not table.get(name) for table, name, held in self._held) or any(
            t.data_ptr() != address for t, address in zip(self._tensors(), self._addresses, strict=True)
        )

    def _tensors(self) -> Iterator[Tensor]:
        return (table[name] for table, name in self._places)


def _reference(x: object) -> Callable[[], object]:
    return (lambda: None) if x is None else weakref.ref(x)


@torch.inference_mode()
def refresh(copy: TransformerLM, model: TransformerLM) -> None:
    """Copies the matrices of `model` into its `with_matrix_dtype` copy, in place, so that addresses do not change."""
    theirs = model.named_weights()
    pairs = [
        (ours, theirs[name]) for name, ours in copy.named_weights().items() if in_matrix_dtype(name, ours)
    ]
    torch._foreach_copy_([ours for ours, _ in pairs], [weight for _, weight in pairs])
