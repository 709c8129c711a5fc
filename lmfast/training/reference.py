"""Log-probabilities of the reference model, computed once and kept in a file.

In: rows in pairs, (pairs, 2, length) of packing.TOKEN, and the reference model. Out: the summed log-probability of
each row's answer, (pairs, 2) float32, in `reference.npz` with the key of what they were computed from: the weights
(sha256 of the checkpoint's file), the data (sha256 of ids and masks), and what else decides the numbers. A file with
another key is refused, with the part that differs: it was made for another model, other data or other settings.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from lmfast.errors import UserError
from lmfast.files import sha256_of, written_beside
from lmfast.model.device import autocast
from lmfast.training.distributed import ALONE, Ranks
from lmfast.training.objectives import DPO, sequence_log_probs

_NO_FILE = "holds no reference log-probabilities, or damaged ones; remove it, and they are computed anew"


def model_key(checkpoint) -> str:
    """sha256 of a checkpoint's weights file."""
    return sha256_of(checkpoint.path / "model.safetensors")


def load_reference(path: Path, key: dict, pairs: int) -> np.ndarray | None:
    """What `path` holds for `key`, (pairs, 2); None where there is no such file.

    Raises UserError where it is for another key, or no such file at all.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            there, log_probs = dict(json.loads(str(file["key"]))), file["log_probs"]
    # What is no .npz at all, numpy takes for a pickle, or returns as a plain array.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: {_NO_FILE}") from None
    for name, value in key.items():
        if there.get(name) != value:
            raise UserError(
                f"{path}: reference log-probabilities of another {name} ({_short(there.get(name))}, now "
                f"{_short(value)}); remove the file, or name another with --reference-cache"
            )
    if log_probs.shape != (pairs, 2) or not np.isfinite(log_probs).all():
        raise UserError(f"{path}: {_NO_FILE}")
    return log_probs


def save_reference(path: Path, key: dict, log_probs: np.ndarray) -> None:
    """Writes log-probabilities (pairs, 2) with their key, complete or not at all."""
    with written_beside(path) as beside, open(beside, "wb") as file:
        np.savez(file, key=json.dumps(key), log_probs=log_probs)


@torch.no_grad()
def compute_reference(
    model, pairs: np.ndarray, pairs_a_batch: int, device, precision: str, ranks: Ranks = ALONE
) -> np.ndarray:
    """Summed log-probabilities (pairs, 2) float32 under `model`, which is left in eval mode.

    Of several ranks each takes every N-th batch, and all of them get the whole result.
    """
    model.eval()
    rows = pairs.reshape(-1, pairs.shape[-1])
    found = torch.zeros(len(rows), device=device)
    begins = range(0, len(rows), 2 * pairs_a_batch)
    for at in begins[ranks.rank :: ranks.world_size]:
        inputs, targets, _ = DPO().tensors(rows[at : at + 2 * pairs_a_batch], device)
        with autocast(device, precision):
            found[at : at + len(inputs)] = sequence_log_probs(model, inputs, targets)
    return ranks.sum(found).cpu().numpy().reshape(-1, 2)


def _short(value) -> str:
    return value[:12] if isinstance(value, str) else str(value)
