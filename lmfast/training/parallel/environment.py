"""What torchrun sets in the environment of each process. Does not import torch."""

import os

from lmfast.errors import UserError


def number_of_ranks() -> int:
    """WORLD_SIZE of torchrun's environment; 1 without it. Raises UserError if it or RANK is not a number, or RANK is not
    below it."""
    numbers = {"RANK": 0, "WORLD_SIZE": 1}
    for name in numbers:
        text = os.environ.get(name, "")
        if text and not text.isdecimal():
            raise UserError(f"{name} is '{text}'; it must be a number, which torchrun sets")
        numbers[name] = int(text or numbers[name])
    if numbers["WORLD_SIZE"] > 1 and numbers["RANK"] >= numbers["WORLD_SIZE"]:
        raise UserError("RANK is {RANK}; it must be below WORLD_SIZE {WORLD_SIZE}".format(**numbers))
    return max(1, numbers["WORLD_SIZE"])


def machine_size() -> int:
    """Number of ranks on this machine, as torchrun reports it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))
