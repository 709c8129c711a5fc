"""What a decoder that outlives a call must know of a model's weights: whether they moved or changed since it last looked.

A captured graph reads fixed addresses. Weights updated in place (an optimizer's step) keep theirs: the graph then reads
the new values, and copies cast to another dtype are cast again into the same memory. Weights that were replaced
(another tensor, another address) need another decoder. A change is seen by the tensor's version, which every in-place
operation raises except those through `.data` or on inference tensors; the latter count as always changed.
"""

import weakref

import torch
from torch import Tensor


class WeightVersions:
    """The weights and tables of `model` as they are now; holds neither them nor the model alive."""

    def __init__(self, model):
        self._places = _places(model)
        self._seen = _versions(model)

    def moved(self, model) -> bool:
        """Whether any tensor is another one, or elsewhere, than when this was made."""
        now = _places(model)
        return len(now) != len(self._places) or any(
            ref() is not other() or rest != others
            for (ref, *rest), (other, *others) in zip(self._places, now, strict=True)
        )

    def take_changes(self, model) -> bool:
        """Whether any value has changed since this was made or last asked."""
        before, self._seen = self._seen, _versions(model)
        return None in self._seen or before != self._seen


def _tensors(model) -> list[Tensor]:
    return [*model.own_tensors().values(), model.rope_cos, model.rope_sin]


def _places(model) -> list[tuple]:
    return [(weakref.ref(t), t.data_ptr(), t.dtype, t.shape) for t in _tensors(model)]


def _versions(model) -> list[int | None]:
    return [None if t.is_inference() else t._version for t in _tensors(model)]


@torch.inference_mode()
def refresh(copy, model) -> None:
    """Casts `model`'s matrices into those of its `with_matrices_in` copy, in place: what reads them keeps its addresses."""
    theirs = model.own_tensors()
    pairs = [(ours, theirs[name]) for name, ours in copy.own_tensors().items() if ours.dim() > 1]
    torch._foreach_copy_([ours for ours, _ in pairs], [weight for _, weight in pairs])
