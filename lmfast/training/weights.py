"""The weights of a checkpoint as arrays, and what is checked before weights are used. Does not import torch."""

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from lmfast.errors import UserError
from lmfast.model.config import ResolvedConfig
from lmfast.model.weight_shapes import weight_shapes
from lmfast.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


def mapped_weights(checkpoint: Checkpoint, config: ResolvedConfig) -> dict[str, np.ndarray]:
    """{name: fp32 array} of the weights of a model of shape `config`, by the names of TransformerLM.named_weights().

    The arrays are read-only and map the file, which may be replaced meanwhile, but not overwritten in place. Raises
    UserError if it is damaged, and as `check_weights`.
    """
    arrays = _map_safetensors(checkpoint.model_file)
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


def _map_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: the length of a header (8 bytes), the header in JSON, the data."""
    try:
        with safe_open(path, "np"):  # rejects a damaged header, or one that does not fit the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another checkpoint") from None
    header.pop("__metadata__", None)
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in header.items():
        if tensor["dtype"] != "F32":
            raise UserError(
                f"{path}: {name} is stored as {tensor['dtype']}, not F32; give another checkpoint"
            )
        shape, begin = tensor["shape"], 8 + length + tensor["data_offsets"][0]
        arrays[name] = np.frombuffer(data, "<f4", math.prod(shape), begin).reshape(shape)
    return arrays
