"""The header of a one-dimensional .npy file, of the same size for all lengths, so that it can be rewritten at the end.

Source: NEP 1, version 1.0.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

HEADER_BYTES = 128


def npy_header(dtype: "np.dtype | type", length: int) -> bytes:
    """A header of `HEADER_BYTES` for `length` little-endian items of `dtype`, with the fields that numpy.save writes."""
    import numpy as np

    descr = np.dtype(dtype).newbyteorder("<").str
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({length},), }}"
    size = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n"
