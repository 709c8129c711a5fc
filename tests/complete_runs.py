"""Complete training runs of a tiny model, and their weights."""

import torch

from lmfast.train import train
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.run_folder import read_metrics


def run(corpus, folder, *flags):
    """Trains with the tiny flags and some more; returns the run's metrics and last weights."""
    assert train(
        [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder), *map(str, flags)]
    )
    return read_metrics(folder), weights(folder)


def weights(folder, step=None):
    path = (
        sorted(folder.glob("checkpoints/step_*"))[-1]
        if step is None
        else folder / f"checkpoints/step_{step:08d}"
    )
    return Checkpoint(path, {}).model_tensors()


def differ(a, b) -> bool:
    return a.keys() != b.keys() or any(a[k].shape != b[k].shape or not torch.equal(a[k], b[k]) for k in a)
