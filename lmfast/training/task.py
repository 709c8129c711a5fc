"""What a command adds to a training run (`Task`), and where the run begins (`Start`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.interfaces import BatchSource, MakeEvaluate, Objective, Sample


@dataclass(frozen=True)
class Rows:
    """The rows of a forward pass, as far as they decide its cost."""

    length: int  # tokens predicted in a row
    per_sequence: int = 1  # rows that batch_size counts as one
    attention_span: float | None = None  # mean number of tokens that a token may attend to; None: the row

    @property
    def tokens(self) -> int:
        """Tokens of what batch_size counts as one."""
        return self.length * self.per_sequence


@dataclass(frozen=True)
class Task:
    """What is trained, on which data, and how it is measured; everything else is the same for every command."""

    objective: Objective
    batches: BatchSource
    make_evaluate: MakeEvaluate | None = None
    sample: Sample | None = None
    tokenizer: Tokenizer | None = None
    evaluation_tokens: int = 0  # of one evaluation
    rows: Rows | None = None  # None: context_length tokens of one text
    facts: dict[str, Any] = field(default_factory=dict[str, Any])  # for run.json
    grows_vocabulary: bool = False  # init_from may have fewer ids than the model
    prepare: Callable[[Path], None] | None = None  # called with the run folder before the first step
    measure: Callable[[], dict[str, float]] | None = None  # metrics of the training steps since the last call


@dataclass(frozen=True)
class Start:
    """Where a run begins: in a new folder, from given weights or none, or from its own last checkpoint."""

    folder: Path | None = None  # None: a new one under runs/
    resuming: bool = False  # whether the run in `folder` resumes
    source: Checkpoint | None = None  # the weights that a new run starts from

    @property
    def base(self) -> Path:
        """The run whose tokenizer and model a stage after pretraining continues: the resumed run itself, or the source's."""
        base = self.folder if self.resuming or self.source is None else self.source.run
        assert base is not None, "neither a run to resume nor a source"
        return base
