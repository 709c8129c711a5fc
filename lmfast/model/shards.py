"""Where the layers of a model split over several ranks need communication. A whole model needs none.

A column-parallel layer reads an input that all ranks have, a row-parallel layer returns a term of a sum over ranks. Blocks
and embedding call `enter` on the input of the former and `leave` on the output of the latter. Here both return their
argument; lmfast/training/parallel/tensor_shards.py communicates.
"""

from torch import Tensor


class Shards:
    """The layers of a whole model: no communication."""

    def enter(self, x: Tensor) -> Tensor:
        """The input of column-parallel layers; its gradient is the sum of those of all ranks."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """The sum over the ranks of the outputs of row-parallel layers."""
        return x


WHOLE = Shards()
