"""Shard files written by hand, as torch.distributed.checkpoint writes those of each rank."""

import json
from pathlib import Path

from safetensors.torch import save_file

from lmfast.training.parallel.pieces import Piece


def write_shards(folder: Path, pieces_of_ranks: list[list[Piece]], number: int = 1) -> list[Path]:
    """One file per rank; number: 1 for weights, 2 for optimizer state."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for rank, pieces in enumerate(pieces_of_ranks, 1):
        path = folder / f"shard-{rank:05d}-model-{number:05d}-of-00002.safetensors"
        offsets = {piece.name: {"saved_offsets": piece.offset} for piece in pieces}
        tensors = {piece.name: piece.tensor.clone() for piece in pieces}
        save_file(tensors, path, {"DCP_SHARDING_INFO": json.dumps(offsets), "format": "pt"})
        paths.append(path)
    return paths
