"""python -m lmfast.evaluate RUN: the loss of a trained model on a token file, statistics of the text it generates, or its
results on lm-eval's tasks.

Reads the whole file once in order, or its first --eval-batches batches, and prints loss, perplexity and bits per byte;
the result is reproducible on a CPU. Runs of sft and dpo are evaluated on the records they held out, or on a token file.
A token file encoded for the base model works too, because adding the chat tokens keeps all other ids. --samples
generates texts and prints the statistics described in lmfast/data/text_statistics.py. --tasks evaluates the model on
lm-eval's tasks instead (lmfast/evaluation), and saves the results in the run folder.
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
    """Evaluate a trained model: loss on a token file, statistics of generated text, or lm-eval's tasks."""

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
    tasks: str | None = None
    """evaluate on these tasks of lm-eval instead, separated by commas, such as arc_easy,piqa"""
    include_path: str | None = None
    """tasks: directory with further task files (YAML)"""
    num_fewshot: int | None = None
    """tasks: number of solved examples before each question; defaults to the task's"""
    limit: float | None = None
    """tasks: number of examples per task, or below 1 their share"""
    apply_chat_template: bool = False
    """tasks: ask as a user does in a chat, for models trained by sft or dpo"""
    json: str | None = None
    """tasks: file to write the results to, besides RUN/evaluations/"""
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


def check_settings(settings: EvaluateSettings) -> None:
    """Raises UserError for values out of range and options that do not belong together."""
    for name, least in (("batch_size", 1), ("eval_batches", 0), ("samples", 0), ("max_tokens", 1)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} is {getattr(settings, name)}; it must be at least {least}")
    selected_precision(settings)
    _check_tasks(settings)


def evaluate_run(settings: EvaluateSettings) -> dict[str, float]:
    """Evaluates the run; prints and returns the metrics. Raises UserError on bad input."""
    check_settings(settings)
    set_environment()
    if settings.tasks is not None:
        from lmfast.cli.evaluating_tasks import measure_tasks

        return measure_tasks(settings)
    from lmfast.cli.evaluating import measure

    return measure(settings)


def _check_tasks(settings: EvaluateSettings) -> None:
    """Raises UserError for options that do not belong together, and values out of range."""
    defaults = EvaluateSettings()
    of_tasks = ("include_path", "num_fewshot", "limit", "apply_chat_template", "json")
    others = (
        *("data", "eval_batches", "samples", "train_text"),
        *("batch_size", "max_tokens", "temperature", "top_p", "seed"),
    )
    for name in others if settings.tasks is not None else of_tasks:
        if getattr(settings, name) != getattr(defaults, name):
            option = f"--{name.replace('_', '-')}"
            if settings.tasks is None:
                raise UserError(f"{option} requires --tasks; add --tasks, or remove {option}")
            raise UserError(f"{option} does not apply to --tasks; run the two evaluations one after another")
    if settings.num_fewshot is not None and settings.num_fewshot < 0:
        raise UserError(f"num_fewshot is {settings.num_fewshot}; it must be at least 0")
    limit = settings.limit
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit == int(limit))):
        raise UserError(f"limit is {limit:g}; give a number of examples, or a share between 0 and 1")


if __name__ == "__main__":
    main()
