"""python -m lmfast.evaluate RUN: the loss of a trained model on a token file, and statistics of the text it generates.

Reads the whole file once in order, or its first --eval-batches batches, and prints loss, perplexity and bits per byte;
the result is reproducible on a CPU. Runs of sft and dpo are evaluated on the records they held out, or on a token file.
A token file encoded for the base model works too, because adding the chat tokens keeps all other ids. --samples
generates texts and prints the statistics described in lmfast/data/text_statistics.py.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.errors import UserError
from lmfast.model.torch_environment import set_environment
from lmfast.settings import Option, selected_precision
from lmfast.streams import standard_output


@dataclass(frozen=True)
class EvaluateSettings:
    """Evaluate a trained model: loss on a token file, statistics of generated text."""

    run: Annotated[str | None, Option(positional=True)] = None
    """run folder or checkpoint; defaults to the newest run under runs/"""
    data: Annotated[str | None, Option(aliases=("val_data",))] = None
    """token file (.npy, .bin, or text of ids); defaults to the run's val_data_path or the records it held out"""
    batch_size: int = 32
    """sequences per batch"""
    eval_batches: int = 0
    """number of batches to read from the start of the data; 0 reads all of it once"""
    samples: int = 0
    """number of texts to generate and measure"""
    max_tokens: int = 200
    """maximum number of tokens per text"""
    train_text: str | None = None
    """text file whose words count as known; defaults to the run's training tokens"""
    temperature: float = 0.8
    """sampling temperature of the texts; 0 is greedy"""
    top_p: float | None = 0.95
    """sample only from the most likely tokens whose probabilities sum to p"""
    seed: int = 0
    """random seed of the texts"""
    bf16: bool = False
    """compute in bfloat16"""
    fp16: bool = False
    """compute in float16"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """device to run on"""


def build_parser() -> SettingsParser:
    return SettingsParser(EvaluateSettings, "lmfast evaluate")


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        standard_output()
        evaluate_run(parse(EvaluateSettings, sys.argv[1:] if argv is None else argv, "lmfast evaluate"))


def evaluate_run(settings: EvaluateSettings) -> dict[str, float]:
    """Evaluates the run; prints and returns the metrics. Raises UserError on bad input."""
    for name, least in (("batch_size", 1), ("eval_batches", 0), ("samples", 0), ("max_tokens", 1)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} is {getattr(settings, name)}; it must be at least {least}")
    selected_precision(settings)
    set_environment()
    from lmfast.cli.evaluating import measure

    return measure(settings)


if __name__ == "__main__":
    main()
