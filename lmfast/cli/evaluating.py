"""`lmfast evaluate` after its settings were checked: the loss of a trained model, and statistics of its text."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lmfast.counted import counted
from lmfast.data.batches import Windows
from lmfast.data.chat import ending_ids, shares_ids
from lmfast.data.stories.builtin import prepare
from lmfast.data.text_statistics import file_words, text_statistics, token_words
from lmfast.data.token_file import open_tokens
from lmfast.errors import UserError
from lmfast.inference.decode import continue_prompts, generate
from lmfast.inference.sampling import Sampling
from lmfast.model.device import autocast, make_deterministic, pick_device
from lmfast.settings import DataSettings, TrainSettings, read_model, replace_flat, selected_precision
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.training.checkpoint import find_checkpoint
from lmfast.training.evaluation import count_bytes, evaluate
from lmfast.training.loading import load_checkpoint
from lmfast.training.objectives import IGNORE, NextToken
from lmfast.training.parallel.ranks import SINGLE_PROCESS
from lmfast.training.post_training_settings import DPOSettings, SFTSettings
from lmfast.training.preference import preference_task
from lmfast.training.resume import saved_settings
from lmfast.training.run_folder import newest_run, read_facts
from lmfast.training.supervised import supervised_task
from lmfast.training.task import Start

if TYPE_CHECKING:
    from lmfast.evaluate import EvaluateSettings


def measure(settings: "EvaluateSettings") -> dict[str, float]:
    """As `lmfast.evaluate.evaluate_run`."""
    # Checks the values before the model is loaded.
    sampling = Sampling(settings.temperature, top_p=settings.top_p, seed=settings.seed)
    device = pick_device(settings.device)
    checkpoint = find_checkpoint(Path(settings.run) if settings.run is not None else newest_run())
    stage = read_facts(checkpoint.run).get("stage", "train")
    # sft and dpo train on records, not on token files.
    trained = saved_settings(checkpoint.run, TrainSettings).data if stage == "train" else DataSettings()
    data = settings.data or trained.val_data_path or _built_in(checkpoint.run, trained)
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
        metrics |= _texts(settings, sampling, trained.train_data_path, model, tokenizer, device)
    return metrics


def _built_in(run: Path, trained: DataSettings) -> str | None:
    """The validation file of the built-in stories, if the run was trained on them without naming files."""
    if trained.train_data_path is not None or "floor_bits_per_byte" not in read_facts(run):
        return None
    return str(prepare(vocab_size=read_model(run).vocab_size, report=lambda line: None).valid)


def _loss(
    settings: "EvaluateSettings", path: Path, checkpoint, model, tokenizer, device, document_mask: bool
) -> dict[str, float]:
    file = open_tokens(path, model.config.vocab_size, min_length=2)
    made_by = (file.summary or {}).get("tokenizer_sha256")
    if tokenizer is not None and made_by not in (None, tokenizer.fingerprint()):
        if not shares_ids(tokenizer, made_by):
            raise UserError(
                f"{path}: was encoded with a different tokenizer than the run's; encode it with the one in the run folder"
            )
        print(f"{path}: was encoded without the chat tokens; its ids are valid for this run")
    context_length = model.config.context_length
    windows = Windows(file.tokens, settings.batch_size, context_length, IGNORE, settings.eval_batches)
    num_bytes = count_bytes(windows.targets(), tokenizer) if tokenizer is not None else None
    objective = NextToken(separator=_separator(checkpoint.run, tokenizer) if document_mask else None)
    result = evaluate(model, objective, windows, device, selected_precision(settings), num_bytes)
    metrics = {"loss": result["val_loss"], "perplexity": math.exp(min(result["val_loss"], 700))}
    line = f"loss {metrics['loss']:.4f} nats per token, perplexity {metrics['perplexity']:.4g}"
    if "bits_per_byte" in result:
        metrics["bits_per_byte"] = result["bits_per_byte"]
        line += f", {metrics['bits_per_byte']:.4f} bits per byte"
    part = "all" if len(windows.targets()) == len(file) - 1 else "the first"
    apart = ", attention within documents, as in training" if document_mask else ""
    print(
        f"{checkpoint.path} on {part} {len(windows.targets()):,} tokens of {path}, in {len(windows)} batches of "
        f"{settings.batch_size} × {context_length}{apart}"
    )
    print(line)
    return metrics


def _held_out(
    settings: "EvaluateSettings", checkpoint, stage: str, model, tokenizer, device
) -> dict[str, float]:
    """The metrics of an sft or dpo run on the records it held out."""
    trained, task = _task(checkpoint.run, stage, tokenizer, device)
    data = trained.data
    if read_facts(checkpoint.run).get("train_data") != task.facts["train_data"]:
        raise UserError(
            f"{data.train_data_path}: differs from the records the run was trained on; restore them, or give --data FILE"
        )
    if task.make_evaluate is None:
        raise UserError("the run held out no records; give --data FILE, or --samples N")
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
    """(settings, task) of an sft or dpo run, with its records and reference log-probabilities loaded again."""
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
    """The id of <|endoftext|>, which separates documents in a run with document_mask."""
    known = {} if tokenizer is None else tokenizer.special_tokens
    if DOCUMENT_END not in known:
        raise UserError(
            f"{run / 'tokenizer'}: is missing or has no <|endoftext|>, which this run's document_mask needs; "
            "restore the directory from the tokenizer that the run was trained with"
        )
    return known[DOCUMENT_END]


def _texts(
    settings: "EvaluateSettings", sampling: Sampling, train_data_path: str | None, model, tokenizer, device
) -> dict[str, float]:
    if tokenizer is None:
        raise UserError("the run has no tokenizer and cannot generate text; remove --samples")
    begin = tokenizer.encode(DOCUMENT_END if DOCUMENT_END in tokenizer.special_tokens else "\n")
    known, source = _known_words(settings, train_data_path, tokenizer)
    with autocast(device, selected_precision(settings)):
        new = continue_prompts(
            model, [begin] * settings.samples, settings.max_tokens, sampling, stop_ids=ending_ids(tokenizer)
        )
    figures = text_statistics([tokenizer.decode(ids) for ids in new], known)
    names = {f"distinct_{n}": f"distinct-{n}" for n in (1, 2, 3)} | {"repetition": "repeated 4-grams"}
    shown = [f"{names[name]} {figures[name]:.3f}" for name in names if name in figures]
    if "known_words" in figures:
        shown.append(f"{figures['known_words']:.1%} of the words occur in {source}")
    print(f"{counted(settings.samples, 'text')} of {sum(map(len, new)):,} tokens: {', '.join(shown)}")
    return figures


def _known_words(settings: "EvaluateSettings", train_data_path: str | None, tokenizer):
    """(words of the training text or None, their source)."""
    if settings.train_text is not None:
        return file_words(settings.train_text, list(tokenizer.special_tokens)), settings.train_text
    if train_data_path is None or not Path(train_data_path).exists():
        print("no training text found, so the share of known words is omitted; give --train-text FILE")
        return None, None
    tokens = open_tokens(train_data_path, max(tokenizer.vocab) + 1).tokens
    return token_words(tokens, tokenizer), train_data_path
