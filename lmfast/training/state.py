"""The state of a run: everything that training changes and a checkpoint stores.

In: settings, the task, and the checkpoint to resume or to take the weights from. Out: a State, whose weights are whole or
sharded over the ranks (lmfast/training/parallel/). Weights depend on the seed or the checkpoint alone, not on the ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from lmfast.model.device import make_deterministic
from lmfast.model.fp8 import use_fp8
from lmfast.model.recomputation import use_checkpointing
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.loading import is_vocabulary_table, load_weights
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import Optimizer, load_state_tensors, make_optimizer, state_tensors
from lmfast.training.parallel.choice import Kind, accumulates_whole
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.sharded import Sharded
from lmfast.training.run_plan import Progress
from lmfast.training.task import Rows, Task

T = TypeVar("T")


@dataclass
class State:
    """sharded: the shards of `model`, if it is sharded. bf16_messages: with fp8, one line per product that stays in bf16."""

    model: TransformerLM
    optimizer: Optimizer
    loss_scale: LossScale | None
    progress: Progress
    bf16_messages: list[str]
    sharded: Sharded | None = None

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What the optimizer updates: the weights, or this rank's parts of them."""
        return dict(self.model.named_parameters()) if self.sharded is None else self.sharded.weights

    def on_first(self, ranks: Ranks, use: Callable[[], T]) -> T | None:
        """Calls `use`, which may use the model, on rank 0; None on the others. All ranks must call it."""
        if self.sharded is None:
            return ranks.only_first(use)
        if ranks.tensor_size > 1:
            from lmfast.training.parallel.tensor_following import with_tensor_ranks

            return with_tensor_ranks(self.model, ranks, use)
        from lmfast.training.parallel.following import with_followers

        return with_followers(self.sharded, ranks, use)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(weights, state of optimizer and loss scale) of a model that is not sharded."""
        weights, state = self.model.named_weights(), state_tensors(self.weights, self.optimizer)
        return weights, state | ({} if self.loss_scale is None else self.loss_scale.state_tensors())


def make_state(
    settings: TrainSettings,
    task: Task,
    source: Checkpoint | None,
    checkpoint: Checkpoint | None,
    device: torch.device,
    ranks: Ranks,
    kind: Kind,
) -> State:
    """Creates model, optimizer and progress; loads all of them from `checkpoint`, or only the weights from `source`."""
    make_deterministic(device)
    torch.manual_seed(settings.run.seed)
    sharded, bf16_messages = None, []
    grows = is_vocabulary_table if source is not None and task.grows_vocabulary else None
    if ranks.tensor_size > 1 or kind in ("fsdp", "hsdp"):
        from lmfast.training.parallel.sharded_state import make_sharded

        sharded = make_sharded(settings, source or checkpoint, grows, device, ranks, kind)
        model = sharded.model
    else:
        model = TransformerLM(settings.model).to(device)
        if settings.run.fp8:
            rows = settings.optimizer.batch_size // ranks.world_size
            bf16_messages = use_fp8(model, rows * settings.model.context_length)
        if source is not None:
            load_weights(model, source, task.grows_vocabulary)
    if kind in ("fsdp", "hsdp"):
        from lmfast.training.parallel.fsdp import ShardedModel

        assert isinstance(sharded, ShardedModel)
        rows = task.rows or Rows(settings.model.context_length)
        sharded.accumulates_whole = accumulates_whole(settings, rows, device, ranks, kind)
    use_checkpointing(model, settings.run.activation_checkpointing)
    opt = settings.optimizer
    optimizer = make_optimizer(
        model,
        opt.optimizer,
        opt.learning_rate,
        (opt.beta1, opt.beta2),
        opt.weight_decay,
        opt.muon_momentum,
        opt.muon_lr,
        sharded,
    )
    loss_scale = LossScale(device) if settings.run.fp16 else None
    state = State(model, optimizer, loss_scale, Progress(), bf16_messages, sharded)
    if checkpoint is not None:
        _load(state, checkpoint, ranks)
    return state


def _load(state: State, checkpoint: Checkpoint, ranks: Ranks) -> None:
    if state.sharded is None:
        load_weights(state.model, checkpoint)
        tensors = checkpoint.optimizer_tensors()
        load_state_tensors(state.weights, state.optimizer, tensors)
    else:
        from lmfast.training.parallel.sharded_state import load_sharded

        tensors = load_sharded(state.sharded, state.optimizer, checkpoint, ranks)
    if state.loss_scale is not None:
        state.loss_scale.load(tensors)
    state.progress = Progress(**checkpoint.state | {"out_of_time": False})
