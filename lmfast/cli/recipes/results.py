"""What the page of a recipe shows of each stage: a few numbers, a text, a page to open. Reads the stage's output."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmfast.cli.recipes.graph import Step
from lmfast.data.stories.entropy import known_entropy
from lmfast.model.accounting import num_parameters
from lmfast.settings import read_model
from lmfast.training.run_metrics import RunMetrics
from lmfast.units import data_size

Numbers = list[tuple[str, str]]


@dataclass(frozen=True)
class Result:
    """numbers: (name, value). text: what the command printed. link: a page in the output."""

    numbers: Numbers
    text: str | None = None
    link: Path | None = None


def result(step: Step) -> Result:
    """The result of a stage, empty if its output is missing or damaged."""
    try:
        if step.command.kind == "report":
            return Result([], step.output.read_text(encoding="utf-8", errors="replace").strip())
        numbers = _READERS[step.command.kind](step)
    except (OSError, ValueError, KeyError, TypeError):
        return Result([])
    page = step.output / "report.html"
    return Result(numbers, link=page if page.is_file() else None)


def _tokenizer(step: Step) -> Numbers:
    vocab = json.loads((step.output / "vocab.json").read_text(encoding="utf-8"))
    return [("ids", f"{len(vocab):,}")]


def _tokens(step: Step) -> Numbers:
    if step.output.is_file():
        return _token_file(step.output, "tokens")
    counts = json.loads((step.output / "token_counts.json").read_text(encoding="utf-8"))
    return [
        (f"{part} tokens", _tokens_of(found["tokens"], found["bytes"]))
        for part, found in counts["parts"].items()
        if found["documents"]
    ]


def _token_file(path: Path, name: str) -> Numbers:
    summary = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return [(name, _tokens_of(summary["tokens"], summary["bytes"]))]


def _tokens_of(tokens: int, num_bytes: int) -> str:
    return f"{tokens:,} ({num_bytes / max(tokens, 1):.3f} bytes per token)"


def _text(step: Step) -> Numbers:
    if step.command.name == "data stories":
        folder = step.output / str(step.settings["vocab_size"])
        numbers = _token_file(folder / "train.npy", "train tokens")
        numbers += _token_file(folder / "valid.npy", "valid tokens")
        floor = known_entropy(folder / "valid.npy")
        return numbers if floor is None else [*numbers, ("entropy, bits per byte", f"{floor:.4f}")]
    source: dict[str, Any] = json.loads((step.output / "source.json").read_text(encoding="utf-8"))
    return [
        (part, f"{made['records']:,} records, {data_size(made['bytes'])}")
        for each in source["parts"].values()
        for part, made in each["made"].items()
    ]


def _run(step: Step) -> Numbers:
    run = RunMetrics(step.output)
    numbers = [("parameters", f"{num_parameters(read_model(step.output)):,}")]
    for name, label, shape in (
        ("step", "steps", "{:,}"),
        ("tokens", "tokens", "{:,}"),
        ("val_loss", "validation loss", "{:.4f}"),
        ("bits_per_byte", "bits per byte", "{:.4f}"),
        ("val_rewards/accuracies", "held-out pairs ranked correctly", "{:.1%}"),
    ):
        if (value := run.last(name)) is not None:
            numbers.append((label, shape.format(value)))
    if (rate := run.median("tokens_per_second")) is not None:
        numbers.append(("tokens per second, median", f"{rate:,.0f}"))
    return numbers


def _files(step: Step) -> Numbers:
    files = [step.output] if step.output.is_file() else [p for p in step.output.rglob("*") if p.is_file()]
    return [("size", data_size(sum(file.stat().st_size for file in files)))]


_READERS: dict[str, Callable[[Step], Numbers]] = {
    "tokenizer": _tokenizer,
    "tokens": _tokens,
    "text": _text,
    "run": _run,
    "files": _files,
}
