"""python -m lmfast.evaluate RUN: the loss of a trained model on a token file, and figures about what it writes.

Loss, perplexity and bits per byte over the whole file once, in order (or over so many batches of its beginning): the
same figures every time on a CPU. A run of lmfast.sft or lmfast.dpo is measured on the records that it held out, as it was
while training. On a token file too: one that was encoded for its base is as good as one of its own, for ids keep their
meaning when the chat's tokens are added. With --samples, texts are written and measured as lmfast/data/text_statistics.py
says.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.counted import counted
from lmfast.errors import UserError, exit_on_user_error
from lmfast.settings import DataSettings, Option, TrainSettings, replace_flat, selected_precision
from lmfast.streams import standard_output
from lmfast.tokenizer.special_tokens import DOCUMENT_END


@dataclass(frozen=True)
class EvaluateSettings:
    """Measure a trained model: its loss on a token file, and the text it writes."""

    run: Annotated[str | None, Option(positional=True)] = None
    """run folder, or one of its checkpoints; the newest run under runs/ when not set"""
    data: Annotated[str | None, Option(aliases=("val_data",))] = None
    """token file (.npy, .bin, or text of ids); when not set, the run's own val_data_path, or the records it held out"""
    batch_size: int = 32
    """sequences read together"""
    eval_batches: int = 0
    """batches to read from the beginning of the data; 0 reads all of it, once"""
    samples: int = 0
    """texts to write and measure"""
    max_tokens: int = 200
    """most tokens of a text"""
    train_text: str | None = None
    """text whose words are the known ones; the run's training tokens, decoded, when not set"""
    temperature: float = 0.8
    """of the texts: divides the logits; 0 is greedy"""
    top_p: float | None = 0.95
    """of the texts: sample among the most likely tokens that together reach this probability"""
    seed: int = 0
    """of the texts"""
    bf16: bool = False
    """compute in bfloat16"""
    fp16: bool = False
    """compute in float16"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """where to compute"""


def build_parser() -> SettingsParser:
    return SettingsParser(EvaluateSettings, "lmfast evaluate")


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        standard_output()
        evaluate_run(parse(EvaluateSettings, sys.argv[1:] if argv is None else argv, "lmfast evaluate"))


def evaluate_run(settings: EvaluateSettings) -> dict[str, float]:
    """Measures, prints, and returns what was measured. Raises UserError on bad input."""
    for name, least in (("batch_size", 1), ("eval_batches", 0), ("samples", 0), ("max_tokens", 1)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} is {getattr(settings, name)}; it must be at least {least}")
    selected_precision(settings)
    from lmfast.inference.sampling import Sampling
    from lmfast.model.device import make_deterministic, pick_device
    from lmfast.training.resume import saved_settings
    from lmfast.training.run_folder import find_checkpoint, load_checkpoint, newest_run, read_facts

    Sampling(settings.temperature, None, settings.top_p)  # refuses before the model is loaded
    device = pick_device(settings.device)
    checkpoint = find_checkpoint(Path(settings.run) if settings.run is not None else newest_run())
    stage = read_facts(checkpoint.run).get("stage", "train")
    # What the other commands trained on are records and no token files.
    trained = saved_settings(checkpoint.run, TrainSettings).data if stage == "train" else DataSettings()
    data = settings.data or trained.val_data_path
    if data is None and not settings.samples and stage == "train":
        raise UserError("the run has no val_data_path; give --data FILE, or --samples N")
    make_deterministic(device)
    model, tokenizer, _ = load_checkpoint(checkpoint, device)
    metrics = {}
    if data is not None:
        masked = trained.document_mask
        metrics |= _loss(settings, Path(data), checkpoint, model, tokenizer, device, masked)
    elif stage != "train":
        metrics |= _held_out(settings, checkpoint, stage, model, tokenizer, device)
    if settings.samples:
        metrics |= _texts(settings, trained.train_data_path, model, tokenizer, device)
    return metrics


def _loss(
    settings: EvaluateSettings, path: Path, checkpoint, model, tokenizer, device, document_mask: bool
) -> dict[str, float]:
    from lmfast.data.batches import Windows
    from lmfast.data.chat import shares_ids
    from lmfast.data.token_file import open_tokens
    from lmfast.training.evaluation import count_bytes, evaluate
    from lmfast.training.objectives import IGNORE, NextToken

    file = open_tokens(path, model.config.vocab_size, min_length=2)
    made_by = (file.summary or {}).get("tokenizer_sha256")
    if tokenizer is not None and made_by not in (None, tokenizer.fingerprint()):
        if not shares_ids(tokenizer, made_by):
            raise UserError(
                f"{path}: was encoded with another tokenizer than the run's; encode it again with the one in the run folder"
            )
        print(
            f"{path}: was encoded before the tokenizer got the chat's tokens; its ids mean the same to the run"
        )
    context_length = model.config.context_length
    windows = Windows(file.tokens, settings.batch_size, context_length, IGNORE, settings.eval_batches)
    num_bytes = count_bytes(windows.targets(), tokenizer) if tokenizer is not None else None
    objective = NextToken(separator=_separator(checkpoint.run, tokenizer) if document_mask else None)
    result = evaluate(model, objective, windows, device, selected_precision(settings), num_bytes)
    metrics = {"loss": result["val_loss"], "perplexity": math.exp(min(result["val_loss"], 700))}
    line = f"loss {metrics['loss']:.4f} nats a token, perplexity {metrics['perplexity']:.4g}"
    if "bits_per_byte" in result:
        metrics["bits_per_byte"] = result["bits_per_byte"]
        line += f", {metrics['bits_per_byte']:.4f} bits per byte"
    part = "all" if len(windows.targets()) == len(file) - 1 else "the first"
    apart = ", each document by itself, as the run was trained" if document_mask else ""
    print(
        f"{checkpoint.path} on {part} {len(windows.targets()):,} tokens of {path}, in {len(windows)} batches of "
        f"{settings.batch_size} × {context_length}{apart}"
    )
    print(line)
    return metrics


def _held_out(
    settings: EvaluateSettings, checkpoint, stage: str, model, tokenizer, device
) -> dict[str, float]:
    """What was measured while training on the records that a run of lmfast.sft or lmfast.dpo held out."""
    from lmfast.training.distributed import SINGLE_PROCESS
    from lmfast.training.run_folder import read_facts

    trained, task = _task(checkpoint.run, stage, tokenizer, device)
    data = trained.data
    if read_facts(checkpoint.run).get("train_data") != task.facts["train_data"]:
        raise UserError(
            f"{data.train_data_path}: other records than the run was trained on; put those back, or give --data FILE"
        )
    if task.make_evaluate is None:
        raise UserError("the run held no records out; give --data FILE, or --samples N")
    changes = {name: getattr(settings, name) for name in ("batch_size", "eval_batches", "bf16", "fp16")}
    changes["grad_accumulation"] = 1
    found = task.make_evaluate(model, replace_flat(trained, changes), device, SINGLE_PROCESS)()
    metrics = {name.removeprefix("val_"): value for name, value in found.items()}
    source = data.val_data_path or f"the records of {data.train_data_path} that were held out"
    print(f"{checkpoint.path} on {source}")
    if stage == "sft":
        metrics["perplexity"] = math.exp(min(metrics["loss"], 700))
        print(
            f"loss {metrics['loss']:.4f} nats per token of the answers, perplexity {metrics['perplexity']:.4g}"
        )
    else:
        print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics


def _task(run: Path, stage: str, tokenizer, device):
    """(settings, task) of a run of lmfast.sft or lmfast.dpo, its records read again, with the reference's numbers."""
    from lmfast.inference.decode import generate
    from lmfast.training.distributed import SINGLE_PROCESS
    from lmfast.training.post_training_settings import DPOSettings, SFTSettings
    from lmfast.training.preference import preference_task
    from lmfast.training.resume import saved_settings
    from lmfast.training.supervised import supervised_task
    from lmfast.training.task import Start

    if stage == "sft":
        return supervised_task(saved_settings(run, SFTSettings), run, tokenizer, generate, print)
    start = Start(run, resuming=True)
    settings, task = preference_task(
        saved_settings(run, DPOSettings), start, tokenizer, generate, device, SINGLE_PROCESS
    )
    if task.prepare is not None:
        task.prepare(run)
    return settings, task


def _separator(run: Path, tokenizer) -> int:
    """The id of <|endoftext|>, by which a run with document_mask tells documents apart."""
    known = {} if tokenizer is None else tokenizer.special_tokens
    if DOCUMENT_END not in known:
        raise UserError(
            f"{run / 'tokenizer'}: is missing or has no <|endoftext|>, which this run's document_mask needs; "
            "restore the directory from the tokenizer that the run was trained with"
        )
    return known[DOCUMENT_END]


def _texts(
    settings: EvaluateSettings, train_data_path: str | None, model, tokenizer, device
) -> dict[str, float]:
    from lmfast.data.chat import ending_ids
    from lmfast.data.text_statistics import text_statistics
    from lmfast.inference.decode import generate
    from lmfast.model.device import autocast

    if tokenizer is None:
        raise UserError("the run has no tokenizer, so text cannot be written; leave --samples out")
    begin = tokenizer.encode(DOCUMENT_END if DOCUMENT_END in tokenizer.special_tokens else "\n")
    known, source = _known_words(settings, train_data_path, tokenizer)
    with autocast(device, selected_precision(settings)):
        new = generate(
            model, [begin] * settings.samples, settings.max_tokens,
            temperature=settings.temperature, top_p=settings.top_p, seed=settings.seed,
            stop_ids=ending_ids(tokenizer),
        )  # fmt: skip
    figures = text_statistics([tokenizer.decode(ids) for ids in new], known)
    names = {f"distinct_{n}": f"distinct-{n}" for n in (1, 2, 3)} | {"repetition": "repeated 4-grams"}
    shown = [f"{names[name]} {figures[name]:.3f}" for name in names if name in figures]
    if "known_words" in figures:
        shown.append(f"{figures['known_words']:.1%} of the words occur in {source}")
    print(f"{counted(settings.samples, 'text')} of {sum(map(len, new)):,} tokens: {', '.join(shown)}")
    return figures


def _known_words(settings: EvaluateSettings, train_data_path: str | None, tokenizer):
    """(words of the training text or None, where they are from)."""
    from lmfast.data.text_statistics import file_words, token_words
    from lmfast.data.token_file import open_tokens

    if settings.train_text is not None:
        return file_words(settings.train_text, list(tokenizer.special_tokens)), settings.train_text
    if train_data_path is None or not Path(train_data_path).exists():
        print("no training text at hand, so no share of known words (--train-text FILE names one)")
        return None, None
    tokens = open_tokens(train_data_path, max(tokenizer.vocab) + 1).tokens
    return token_words(tokens, tokenizer), train_data_path


if __name__ == "__main__":
    main()
