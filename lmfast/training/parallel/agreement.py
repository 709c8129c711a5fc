"""What must be the same on all ranks of a run, compared when it starts: commands, versions, settings, data files.

In: what each rank has. Each comparison is one small gather. A difference ends the run on all ranks, with one line that names
it. Paths may lead to copies on other machines: of data files, contents are compared.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lmfast.settings import TrainSettings, to_flat
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.task import Task

PACKAGE = Path(__file__).parents[2]


def reject_other_programs(ranks: Ranks, words: Sequence[str]) -> None:
    """Ends the run unless all ranks were started with the same words, with the same torch and the same code of lmfast."""
    if ranks.world_size == 1:
        return
    versions = {"the version of torch": torch.__version__, "the code of lmfast": source_sha256()[:12]}
    reject_differences(ranks, versions, "install the same one on every machine")
    commands: list[Sequence[str]] = _gathered(ranks, list(words))
    for rank, other in enumerate(commands):
        if other != commands[0]:
            here, there = different_words(commands[0], other)
            ranks.fail(
                f"ranks 0 and {rank} were started with different commands ({here} and {there}); start every process with "
                "the same one"
            )


def reject_other_inputs(ranks: Ranks, settings: TrainSettings, task: Task) -> None:
    """Ends the run unless all ranks have the same resolved settings, training data, validation data and tokenizer."""
    if ranks.world_size == 1:
        return
    facts: dict[str, Any] = {name: value for name, value in to_flat(settings).items() if value is not None}
    facts["the training data"] = task.facts.get("train_data")
    facts["the validation data"] = task.evaluation_sha256
    facts["the tokenizer"] = None if task.tokenizer is None else task.tokenizer.fingerprint()
    reject_differences(ranks, facts, "give every process the same settings, and copies of the same files")


def reject_differences(ranks: Ranks, facts: Mapping[str, Any], remedy: str) -> None:
    """Ends the run if a value differs between ranks; names the first one."""
    found = _gathered(ranks, {name: str(value) for name, value in facts.items()})
    for rank, other in enumerate(found):
        for name in [*found[0], *other]:
            here, there = found[0].get(name, "not set"), other.get(name, "not set")
            if here != there:
                ranks.fail(f"{name} is {here} on rank 0 and {there} on rank {rank}; {remedy}")


def different_words(one: Sequence[str], other: Sequence[str]) -> tuple[str, str]:
    """The first words of two command lines that differ, with their flag; "no more words" at the end of one."""
    at = next((i for i, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), min(len(one), len(other)))
    begin = at - 1 if at and one[at - 1].startswith("-") else at
    here, there = (" ".join(words[begin : at + 1]) or "no more words" for words in (one, other))
    return here, there


def source_sha256(folder: Path = PACKAGE) -> str:
    """SHA-256 of the code of the package, which may be a changed checkout."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _gathered(ranks: Ranks, value: Any) -> list[Any]:
    found: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(found, value)
    return found
