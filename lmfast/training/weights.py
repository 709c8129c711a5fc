"""The weights of a checkpoint as arrays, and what is checked before weights are used. Does not import torch."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lmfast.errors import UserError
from lmfast.model.config import ResolvedConfig
from lmfast.model.weight_shapes import weight_shapes
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.tensor_files import TensorFiles

if TYPE_CHECKING:
    from torch import Tensor


def mapped_weights(checkpoint: Checkpoint, config: ResolvedConfig) -> dict[str, np.ndarray]:
    """{name: fp32 array} of the weights of a model of shape `config`, by the names of TransformerLM.named_weights().

    The arrays are read-only and map the file, which may be replaced meanwhile, but not overwritten in place; those of which
    a sharded checkpoint has several pieces are in memory. Raises UserError if it is damaged, and as `check_weights`.
    """
    files = TensorFiles(checkpoint.weight_files)
    for name in files.shapes:
        if files.dtype(name) != "F32":
            raise UserError(
                f"{files.location(name)}: {name} is stored as {files.dtype(name)}, not F32; give another checkpoint"
            )
    arrays = {name: files.read(name) for name in files.shapes}
    check_weights(checkpoint, weight_shapes(config), arrays)
    return arrays


def check_weights(
    checkpoint: Checkpoint,
    shapes: Mapping[str, tuple[int, ...]],
    weights: "Mapping[str, np.ndarray] | Mapping[str, Tensor]",
) -> None:
    """Raises UserError naming the first weight that is missing or unknown, has another shape than in `shapes`, or is not
    finite."""
    for name in [*shapes, *weights]:
        there = tuple(weights[name].shape) if name in weights else None
        if there is None or there != shapes.get(name):
            raise UserError(
                f"{checkpoint.path}: has another model shape: {name} is {'absent' if there is None else there}, not "
                f"{shapes.get(name, 'absent')}; use the settings of its config.yaml"
            )
        # Both ends are NaN if any value is.
        if 0 not in there and not all(
            math.isfinite(end) for end in (weights[name].min(), weights[name].max())
        ):
            raise UserError(f"{checkpoint.path}: {name} is not finite; use an older checkpoint")
