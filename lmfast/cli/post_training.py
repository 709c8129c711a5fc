"""`lmfast sft` and `lmfast dpo` after their command lines were checked: they differ in settings, data and objective."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from lmfast.cli.training_tasks import with_tasks
from lmfast.inference.decode import generate
from lmfast.training.parallel.agreement import reject_other_programs
from lmfast.training.parallel.ranks import Ranks, joined_ranks
from lmfast.training.post_training import chat_tokenizer, stage_settings
from lmfast.training.post_training_settings import DPOSettings, SFTSettings
from lmfast.training.preference import preference_task
from lmfast.training.run import execute
from lmfast.training.supervised import supervised_task
from lmfast.training.task import Start, Task

T = TypeVar("T", SFTSettings, DPOSettings)
MakeTask = Callable[[T, Start, torch.device, Ranks], tuple[T, Task]]


def fine_tune(argv: Sequence[str], read: Callable[..., SFTSettings]) -> bool:
    """As `lmfast.sft.sft`. read(base=…): the settings of the command line `argv` over `base`."""

    def make_task(settings: SFTSettings, start: Start, device: torch.device, ranks: Ranks):
        tokenizer = chat_tokenizer(start.base, may_add=True)
        return supervised_task(settings, start.base, tokenizer, generate, ranks.report)

    return _train(SFTSettings, argv, read, "sft", make_task)


def train_on_preferences(argv: Sequence[str], read: Callable[..., DPOSettings]) -> bool:
    """As `lmfast.dpo.dpo`; read as for `fine_tune`."""

    def make_task(settings: DPOSettings, start: Start, device: torch.device, ranks: Ranks):
        return preference_task(settings, start, chat_tokenizer(start.base), generate, device, ranks)

    return _train(DPOSettings, argv, read, "dpo", make_task)


def _train(
    cls: type[T], argv: Sequence[str], read: Callable[..., T], stage: str, make_task: MakeTask
) -> bool:
    with joined_ranks() as ranks:
        reject_other_programs(ranks, argv)
        settings, start = ranks.from_first(lambda: stage_settings(cls, read, stage))
        device = torch.device(settings.run.device)
        ranks.use_device(device)
        ranks = ranks.in_tensor_groups(settings.run.tensor_parallel)
        settings, task = ranks.first_then_rest(lambda: make_task(settings, start, device, ranks))
        settings, task = with_tasks(settings, task, ranks)
        return execute(settings, task, start, device, ranks)
