"""What the loop and a run need from a task, as Protocols: an objective, batches, an evaluation, samples.

No settings and no files here. `rows` is the first dimension of a forward pass, `length` the tokens predicted in a row.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings
from lmfast.training.parallel.ranks import Ranks


class Objective(Protocol):
    """A loss over batches. Returns sums, not means, so that a step can be split into forward passes in any way."""

    @property
    def loss(self) -> Callable[..., Tensor]:
        """loss(model, *tensors) → the summed loss in nats, a differentiable fp32 scalar."""
        ...

    def tensors(self, batch: np.ndarray, device: torch.device) -> tuple[Tensor | None, ...]:
        """The arguments of `loss` on `device`, for a batch (rows, length + 1) of the BatchSource."""
        ...

    def valid_tokens(self, batch: np.ndarray) -> int:
        """The divisor of the summed loss of a batch: number of targets with loss, or of pairs for preferences."""
        ...

    @property
    def count(self) -> Callable[..., Tensor]:
        """count(*tensors) → `valid_tokens` of the batch that `tensors` are made of, computed on their device."""
        ...


class BatchSource(Protocol):
    """Training data as a pure function of the step, so that a run resumes anywhere without replay."""

    def step(self, step: int, /) -> np.ndarray:
        """The rows (rows, length + 1) of optimizer step `step` (from 0): int64 ids, or records of packing.TOKEN."""
        ...

    def describe(self, step: int, /) -> str:
        """The origin of the data of step `step`, as text. Thread-safe."""
        ...


Evaluate = Callable[[], dict[str, float]]
"""evaluates the current model: {val_loss, …}, losses in nats per token (per pair for preferences)"""


class MakeEvaluate(Protocol):
    """Prepares the evaluation of a model on held-out data."""

    def __call__(
        self, model: TransformerLM, settings: TrainSettings, device: torch.device, ranks: Ranks
    ) -> Evaluate: ...


EvaluateTasks = Callable[[TransformerLM], dict[str, float]]
"""evaluates a model on tasks: metrics as in training/task_metrics.py; may leave the model in eval mode"""


class Sample(Protocol):
    """Generates text after step `step`; returns it with statistics for the metrics."""

    def __call__(self, model: TransformerLM, step: int) -> tuple[str, dict[str, float]]: ...


class Generate(Protocol):
    """Continues prompts: `lmfast.inference.decode.generate`, which the entry points pass in."""

    def __call__(
        self,
        model: TransformerLM,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        *,
        temperature: float = ...,
        top_p: float | None = ...,
        seed: int = ...,
        stop_ids: Collection[int] = ...,
    ) -> list[list[int]]:
        """New ids of each prompt, at most `max_tokens`, up to the first of `stop_ids`."""
        ...


class Background(Protocol):
    """Checkpoints written in the background, at most one at a time, on several ranks."""

    @property
    def writing(self) -> bool:
        """Whether this rank has not finished its part."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the part of this rank, or on rank 0 any part, could not be written."""
        ...

    def finish(self) -> None:
        """Ends a checkpoint that no rank is writing any more; prints why it failed."""
        ...
