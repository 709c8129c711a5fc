"""The parts of a training run that a command supplies (`Task`), and its starting point (`Start`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.interfaces import BatchSource, EvaluateTasks, MakeEvaluate, Objective, Sample


@dataclass(frozen=True)
class Rows:
    """The shape of the rows of a forward pass, which determines its cost."""

    length: int  # tokens predicted per row
    per_sequence: int = 1  # rows that batch_size counts as one sequence
    attention_span: float | None = (
        None  # mean number of tokens that a token may attend to; None: the whole row
    )

    @property
    def tokens(self) -> int:
        """Tokens per sequence, as counted by batch_size."""
        return self.length * self.per_sequence


@dataclass(frozen=True)
class Task:
    """Objective, data and evaluation of a run; everything else is the same for every command."""

    objective: Objective
    batches: BatchSource
    make_evaluate: MakeEvaluate | None = None
    evaluate_tasks: EvaluateTasks | None = None  # of rank 0, if the run evaluates on tasks
    task_tokens: int = 0  # ids that an evaluation on tasks reads
    generating_tasks: list[str] = field(default_factory=list[str])  # of rank 0: those that generate text
    sample: Sample | None = None
    tokenizer: Tokenizer | None = None
    evaluation_tokens: int = 0  # tokens per evaluation
    evaluation_sha256: str | None = None  # identifies the data of evaluations
    rows: Rows | None = None  # None: context_length tokens per row
    facts: dict[str, Any] = field(default_factory=dict[str, Any])  # for run.json
    grows_vocabulary: bool = False  # whether init_from may have fewer ids than the model
    prepare: Callable[[Path], None] | None = None  # called with the run folder before the first step
    measure: Callable[[], dict[str, float]] | None = None  # metrics for a line
    begin_step: Callable[[], None] | None = None  # called before each step


@dataclass(frozen=True)
class Start:
    """The start of a run: a new folder with new or given weights, or the last checkpoint of a run to resume."""

    folder: Path | None = None  # None: a new folder under runs/
    resuming: bool = False  # whether to resume the run in `folder`
    source: Checkpoint | None = None  # initial weights of a new run

    @property
    def base(self) -> Path:
        """The run whose tokenizer and model sft and dpo continue: the resumed run, or that of the source."""
        base = self.folder if self.resuming or self.source is None else self.source.run
        assert base is not None, "neither a run to resume nor a source"
        return base
