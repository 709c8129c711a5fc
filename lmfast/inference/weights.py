"""What a decoder that outlives a call must know of a model's weights: whether they are still where it reads them.

A captured graph reads fixed addresses. Weights updated in place (an optimizer's step) keep theirs: the graph then reads
the new values, and copies cast to another dtype are cast again into the same memory, at each call, for nothing tells
whether values changed: torch's fused optimizers and writes through `.data` leave a tensor's version as it was. Weights
that were replaced (another tensor, another address) need another decoder.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lmfast.model.transformer import TransformerLM


class WeightAddresses:
    """Where the weights and tables of `model` are now. Holds its parts alive, but not the model itself.

    Looks into each module's own dictionaries, because each call does this and walking the modules costs more.
    """

    def __init__(self, model: TransformerLM):
        # (a module's dictionary, name, reference to what it held): submodules, parameters and buffers
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
        """Whether any tensor is another one, or elsewhere, than when this was made."""
        return any(held() is not table.get(name) for table, name, held in self._held) or any(
            t.data_ptr() != address for t, address in zip(self._tensors(), self._addresses, strict=True)
        )

    def _tensors(self) -> Iterator[Tensor]:
        return (table[name] for table, name in self._places)


def _reference(x: object) -> Callable[[], object]:
    return (lambda: None) if x is None else weakref.ref(x)


@torch.inference_mode()
def refresh(copy: TransformerLM, model: TransformerLM) -> None:
    """Casts `model`'s matrices into those of its `with_matrix_dtype` copy, in place: what reads them keeps its addresses."""
    theirs = model.named_weights()
    pairs = [(ours, theirs[name]) for name, ours in copy.named_weights().items() if ours.dim() > 1]
    torch._foreach_copy_([ours for ours, _ in pairs], [weight for _, weight in pairs])
