"""What PyTorch's libraries read from the environment when they are imported, set by commands first. Does not import torch.

Where Inductor keeps compiled code (compile_cache.py), and how long a thread of libgomp waits actively for the others before
it sleeps. By default it spins without a useful limit: next to another busy process it then keeps the core that the
thread it is waiting for needs. A short spin costs nothing on a quiet machine, because the others arrive within it.
A user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT is respected.
"""

import os

from lmfast.model import compile_cache

SPIN_COUNT = "5000"  # iterations; about 0.1 ms


def set_environment() -> None:
    """Sets the variables of this process and its children."""
    compile_cache.set_directory()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
