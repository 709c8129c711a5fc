"""The first tokens of the sources, held out for validation up to the end of a document.

In: the jobs of `prepare` in the order of the sources, all encoded as training documents, and a number of tokens. Out: the
files of ids that make up each part, and each job's counts by part. The shards' own files and stamps stay as they are, so
an interrupted `prepare` resumes; the shard that the cut falls into is written again as two.

modded-nanogpt validates on the first 100M tokens of FineWeb's sample, of which it scores the first 10,485,760.
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
    """({part: files of ids}, results by job) with at least the first `tokens` tokens, and no more than needed, in valid.

    Raises UserError where nothing would be left to train on.
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
            f"--val-tokens: the sources hold {total:,} tokens, so none would be left for training; give fewer, or more text"
        )
    return files, split


def _cut(job: Job[EncodeRequest], facts: dict, tokens: int, tokenizer: "Tokenizer") -> tuple[dict, dict]:
    """(train, valid) counts of a job whose ids are written as two files, cut behind the document of id `tokens` - 1."""
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
