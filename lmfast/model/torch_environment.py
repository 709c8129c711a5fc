"""What PyTorch's libraries read from the environment when they are imported, set by commands first. Does not import torch.

Where Inductor keeps compiled code (compile_cache.py), and how long a thread of libgomp waits actively for the others before
it sleeps. By default it spins without a useful limit: next to another busy process it then keeps the core that the
thread it is waiting for needs. A short spin costs nothing on a quiet machine, because the others arrive within it.
A user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT is respected. Rejects unknown values of LMFAST_KERNELS.
"""

import os

from lmfast.errors import UserError
from lmfast.model import compile_cache

KERNELS = ("auto", "triton", "torch")  # values of LMFAST_KERNELS (lmfast_kernels/backend.py)
SPIN_COUNT = "5000"  # iterations; about 0.1 ms


def set_environment() -> None:
    """Sets the variables of this process and its children. Raises UserError for an unknown value of LMFAST_KERNELS."""
    kernels = os.environ.get("LMFAST_KERNELS", "auto")
    if kernels not in KERNELS:
        raise UserError(f"LMFAST_KERNELS is {kernels!r}; unset it, or use {', '.join(KERNELS)}")
    compile_cache.set_directory()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
