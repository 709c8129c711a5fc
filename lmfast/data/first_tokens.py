"""Holds out the first tokens of the sources for validation, rounded up to whole documents.

Input: the jobs of `prepare` in the order of the sources, all encoded as training documents, and a number of tokens. Output:
the id files of each part, and the counts of each job by part. The files and completion records of the shards do not
change, so an interrupted `prepare` resumes; the shard that contains the boundary is written again in two files.

modded-nanogpt validates on the first 100M tokens of FineWeb's sample and scores the first 10,485,760 of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmfast.data.encode_shards import MARK, EncodeRequest
from lmfast.errors import UserError
from lmfast.sharding.jobs import Job

if TYPE_CHECKING:
    from lmfast.tokenizer.bpe import Tokenizer

NOTHING = {"documents": 0, "tokens": 0, "bytes": 0}


def hold_out_first(
    jobs: list[Job[EncodeRequest]], results: dict[str, dict], tokens: int, tokenizer: "Tokenizer"
) -> tuple[dict[str, list[Path]], dict[str, dict]]:
    """({part: id files}, results by job), where valid has the fewest whole documents with at least `tokens` tokens.

    Raises UserError if nothing is left to train on.
    """
    total = sum(results[job.name]["train"]["tokens"] for job in jobs)
    files: dict[str, list[Path]] = {"train": [], "valid": []}
    split: dict[str, dict] = {}
    for job in jobs:
        facts, blank = results[job.name]["train"], results[job.name]["blank"]
        if tokens <= 0:
            train, valid = facts, NOTHING
            files["train"].append(job.file("train.ids"))
        elif facts["tokens"] <= tokens:
            train, valid = NOTHING, facts
            files["valid"].append(job.file("train.ids"))
        else:
            train, valid = _cut(job, facts, tokens, tokenizer)
            files["valid"].append(job.file("head.ids"))
            files["train"].append(job.file("tail.ids"))
        tokens -= facts["tokens"]
        split[job.name] = {"train": train, "valid": valid, "blank": blank}
    if not any(result["train"]["tokens"] for result in split.values()):
        raise UserError(
            f"--val-tokens: the sources have only {total:,} tokens, which leaves none for training; reduce it, or add text"
        )
    return files, split


def _cut(job: Job[EncodeRequest], facts: dict, tokens: int, tokenizer: "Tokenizer") -> tuple[dict, dict]:
    """Splits the ids of a job after the document of token `tokens` - 1 into two files; returns (train, valid) counts."""
    ids = np.memmap(job.file("train.ids"), tokenizer.dtype.newbyteorder("<"), "r")
    ends = np.flatnonzero(ids == tokenizer.special_tokens[MARK.decode()]) + 1
    documents = int(np.searchsorted(ends, tokens)) + 1
    cut = int(ends[documents - 1])
    ids[:cut].tofile(job.file("head.ids"))
    ids[cut:].tofile(job.file("tail.ids"))
    valid = {
        "documents": documents,
        "tokens": cut,
        "bytes": int(tokenizer.token_lengths()[ids[:cut]].sum()),
    }
    return {fact: facts[fact] - valid[fact] for fact in facts}, valid
