"""Log-probabilities of the reference model, computed once and stored in a file.

Input: pairs of rows, (pairs, 2, length) of packing.TOKEN, and the reference model. Output: the summed log-probability of
the answer in each row, (pairs, 2) float32, in `reference.npz`. The file contains a key of everything that the numbers
depend on: weights (SHA-256 of the checkpoint file), data (SHA-256 of ids and masks), context length and precision. A file
with a different key is rejected, naming the part that differs.
"""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lmfast.errors import UserError
from lmfast.files import atomic_write, check_writable, file_sha256
from lmfast.model.device import autocast
from lmfast.model.transformer import TransformerLM
from lmfast.settings import Precision, selected_precision
from lmfast.training.checkpoint import Checkpoint, find_checkpoint
from lmfast.training.loading import build_model
from lmfast.training.objectives import DPO, sequence_log_probs
from lmfast.training.parallel.choice import choose_kind
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.post_training_settings import DPOSettings
from lmfast.training.run_folder import read_facts
from lmfast.training.task import Rows, Start

_NO_FILE = "contains no reference log-probabilities, or is damaged; delete it to compute them again"


def model_key(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights file of a checkpoint; if there are several, of their sums."""
    sums = [file_sha256(path) for path in checkpoint.weight_files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def load_reference(path: Path, key: dict, pairs: int) -> np.ndarray | None:
    """The log-probabilities (pairs, 2) stored in `path`, or None if it does not exist.

    Raises UserError if the file has another key or another format.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            there, log_probs = dict(json.loads(str(file["key"]))), file["log_probs"]
    # numpy takes a file that is not .npz for a pickle, or returns a plain array.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: {_NO_FILE}") from None
    for name, value in key.items():
        if there.get(name) != value:
            raise UserError(
                f"{path}: does not match this run: its {name} is {_short(there.get(name))}, not {_short(value)}; delete the "
                "file, or set another --reference-cache"
            )
    if log_probs.shape != (pairs, 2) or not np.isfinite(log_probs).all():
        raise UserError(f"{path}: {_NO_FILE}")
    return log_probs


def save_reference(path: Path, key: dict, log_probs: np.ndarray) -> None:
    """Writes log-probabilities (pairs, 2) and their key, atomically."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, key=json.dumps(key), log_probs=log_probs)


@torch.no_grad()
def compute_reference(
    model: TransformerLM,
    pairs: np.ndarray,
    pairs_a_batch: int,
    device: torch.device,
    precision: Precision,
    ranks: Ranks = SINGLE_PROCESS,
) -> np.ndarray:
    """Summed log-probabilities (pairs, 2) float32 under `model`; leaves the model in eval mode.

    Each of N data ranks computes every N-th batch; all ranks return all results.
    """
    model.eval()
    rows = pairs.reshape(-1, pairs.shape[-1])
    found = torch.zeros(len(rows), device=device)
    begins = range(0, len(rows), 2 * pairs_a_batch)
    for at, counts in ranks.deal(begins):
        inputs, targets, _ = DPO().tensors(rows[at : at + 2 * pairs_a_batch], device)
        with autocast(device, precision):
            log_probs = sequence_log_probs(model, inputs, targets)
        if counts:
            found[at : at + len(inputs)] = log_probs
    return ranks.sum(found).cpu().numpy().reshape(-1, 2)


class Reference:
    """The log-probabilities of all pairs under the reference model: read from their file, or computed and saved."""

    def __init__(
        self,
        settings: DPOSettings,
        start: Start,
        data: dict[str, str],
        parts: tuple[np.ndarray, ...],
        device: torch.device,
        ranks: Ranks,
    ):
        """data: SHA-256 of each of `parts`, rows (pairs, 2, length) of packing.TOKEN.

        Raises UserError, before anything is written, if reference_cache is for another model or other data."""
        self.settings, self.source, self.parts = settings, start.source, parts
        self.device, self.ranks = device, ranks
        named = settings.preference.reference_cache
        self.path = Path(named) if named is not None else None  # None: in the run folder, which `fill` gets
        if self.path is not None:
            check_writable(self.path)
        self.model_key = (
            model_key(start.source)
            if start.source is not None
            else read_facts(start.base).get("reference_model")
        )
        # In the folder of a new run, a file can only be left over from a run without checkpoints.
        self.may_exist = start.resuming or named is not None
        facts = {"length": settings.model.context_length, "bf16": settings.run.bf16}
        if settings.run.fp16:
            facts["fp16"] = True
        self.key = {"model": self.model_key, "data": data, "settings": facts}
        if self.path is not None:
            self._load(self.path)

    def _load(self, path: Path) -> np.ndarray | None:
        return load_reference(path, self.key, sum(map(len, self.parts))) if self.may_exist else None

    def fill(self, folder: Path) -> None:
        """Fills the field `reference` of the rows. folder: the run folder."""
        path = self.path or folder / "reference.npz"
        found = self.ranks.from_first(lambda: self._load(path))
        if found is None:
            found = self._compute(path)
            self.ranks.only_first(lambda: save_reference(path, self.key, found))
        at = 0
        for part in self.parts:
            part["reference"] = found[at : at + len(part), :, None]
            at += len(part)

    def _compute(self, path: Path) -> np.ndarray:
        source = self.source or find_checkpoint(Path(str(self.settings.run.init_from)))
        if model_key(source) != self.model_key:
            self.ranks.fail(
                f"{source.path}: no longer has the weights that the run started from, and {path} is missing; restore one "
                "of them"
            )
        model, ranks = self._model(source)
        pairs, precision = self.settings.optimizer.batch_size, selected_precision(self.settings.run)
        return np.concatenate(
            [
                compute_reference(model, part, pairs, self.device, precision, ranks)
                for part in self.parts
                if len(part)
            ]
        )

    def _model(self, source: Checkpoint) -> tuple[TransformerLM, Ranks]:
        """The reference model, divided as the trained model is, and the ranks that compute with it."""
        rows = Rows(self.parts[0].shape[-1] - 1, per_sequence=2)
        kind = choose_kind(self.settings, rows, self.device, self.ranks)
        if self.ranks.tensor_size == 1 and kind not in ("fsdp", "hsdp"):
            return build_model(source, self.settings.model, self.device), self.ranks
        from lmfast.training.parallel.sharded_state import make_sharded

        sharded = make_sharded(self.settings, source, None, self.device, self.ranks, kind)
        return sharded.model, replace(self.ranks, lockstep=kind in ("fsdp", "hsdp"))


def _short(value) -> str:
    return value[:12] if isinstance(value, str) else str(value)
