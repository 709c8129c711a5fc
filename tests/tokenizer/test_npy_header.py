import io

import numpy as np
import pytest

from lmfast.tokenizer.npy_header import HEADER_BYTES, npy_header


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.dtype(">u2")])
@pytest.mark.parametrize("length", [0, 7, 2**40])
def test_numpy_reads_headers_of_constant_size(dtype, length):
    header = npy_header(dtype, length)
    assert len(header) == HEADER_BYTES
    file = io.BytesIO(header)
    assert np.lib.format.read_magic(file) == (1, 0)
    shape, fortran, read = np.lib.format.read_array_header_1_0(file)
    assert (shape, fortran, read) == ((length,), False, np.dtype(dtype).newbyteorder("<"))
    assert file.read() == b""


def test_header_equals_numpys():
    file = io.BytesIO()
    np.save(file, np.zeros(12345, np.uint16))
    assert file.getvalue()[:HEADER_BYTES] == npy_header(np.uint16, 12345)
