"""What calibration measures, derived from the stages of a recipe before any of them has run. Does not import torch.

A model that no stage has trained yet is known from the settings: its vocabulary is that of the tokenizer stage, its shape
that of the training stage it starts from.
"""

import dataclasses
import glob
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lmfast.cli.recipes.graph import Source, Step
from lmfast.errors import UserError
from lmfast.interop.hugging_face_config import from_config_json
from lmfast.model.config import ModelConfig
from lmfast.settings import read_model

CHAT_TOKENS = 4


@dataclass(frozen=True)
class TokenizerJob:
    """Train a tokenizer on the start of a text file."""

    text: str
    vocab_size: int
    special_tokens: list[str]


@dataclass(frozen=True)
class TrainingJob:
    """Take steps of a training stage. words: its options. model: of train its vocab_size; of sft and dpo the base model's
    configuration. tokenizer: a path, or the name of a TokenizerJob. eval_tokens: of an evaluation of train."""

    stage: str
    words: list[str]
    model: dict[str, Any] = field(default_factory=dict[str, Any])
    tokenizer: str = ""
    eval_tokens: int = 0


@dataclass(frozen=True)
class DataJob:
    """Run a data stage on the start of a text file, or write few stories if `text` is empty.

    words: its command line without input, output, tokenizer and sizes. tokenizer: as in TrainingJob."""

    words: list[str]
    text: str = ""
    tokenizer: str = ""


Job = TokenizerJob | TrainingJob | DataJob


def write_jobs(jobs: Mapping[str, Job]) -> str:
    """JSON for the calibration process."""
    named = {name: {"kind": type(job).__name__, **asdict(job)} for name, job in jobs.items()}
    return json.dumps({"spawned": time.time(), "jobs": named})


def read_jobs(text: str) -> tuple[float, dict[str, Job]]:
    """The inverse of `write_jobs`: (when the process was started, jobs)."""
    loaded = json.loads(text)
    kinds = {cls.__name__: cls for cls in (TokenizerJob, TrainingJob, DataJob)}
    return loaded["spawned"], {name: kinds[job.pop("kind")](**job) for name, job in loaded["jobs"].items()}


class Known:
    """What is known about the outputs of the stages, finished or not. done: steps of runs that will resume."""

    def __init__(self, steps: list[Step], done: Mapping[str, int] | None = None):
        self.steps = {step.name: step for step in steps}
        self.done = done or {}

    def job(self, step: Step) -> Job | None:
        """What to measure for a stage; None if nothing can be, or nothing is worth it."""
        try:
            if step.command.name == "tokenizer train":
                text = self.text_file(step)
                names = step.settings["special_tokens"]
                return None if text is None else TokenizerJob(text, step.settings["vocab_size"], names)
            if step.command.name == "data stories":
                return DataJob(_without(step.line, "train_bytes", "valid_bytes", "output"))
            if step.command.name in ("data prepare", "tokenizer encode"):
                return self._data(step)
            if step.command.name == "train":
                return self._train(step)
            if step.command.name in ("sft", "dpo"):
                return self._post_training(step)
        except (UserError, OSError, ValueError, KeyError, TypeError):  # the stage itself reports it
            pass
        return None

    def text_file(self, step: Step) -> str | None:
        """The first text of a stage that exists and can be read as it is."""
        for source in step.sources.get("input", []):
            for name in sorted(glob.glob(str(source.path))):
                if Path(name).is_file() and Path(name).suffix in (".txt", ".md", ""):
                    return name
        return None

    def bytes_of(self, sources: list[Source]) -> int | None:
        """Size of the inputs; None if a stage that has not run writes them."""
        total = 0
        for source in sources:
            if source.stage is not None and not source.path.exists():
                size = self._text_bytes(self.steps[source.stage], source.path)
                if size is None:
                    return None
                total += size
                continue
            for name in glob.glob(str(source.path)):
                path = Path(name)
                files = [path] if path.is_file() else path.rglob("*")
                total += sum(file.stat().st_size for file in files if file.is_file())
        return total

    def _text_bytes(self, step: Step, path: Path) -> int | None:
        if step.command.name == "data stories" and path.suffix == ".txt":
            return step.settings[f"{path.stem}_bytes"]
        return None

    def tokens_of(self, source: Source) -> int | None:
        """Tokens of a token file, estimated from its text if it does not exist."""
        if source.path.is_file():
            return source.path.stat().st_size // 2
        if source.stage is None:
            return None
        step = self.steps[source.stage]
        part = source.path.stem
        if step.command.name == "data stories":
            return round(step.settings[f"{part}_bytes"] / STORY_BYTES_PER_TOKEN)
        if step.command.name == "data prepare":
            train = self.bytes_of(step.sources["input"])
            if part == "train":
                return None if train is None else round(train / BYTES_PER_TOKEN)
            if step.sources.get("val_input"):
                valid = self.bytes_of(step.sources["val_input"])
                return None if valid is None else round(valid / BYTES_PER_TOKEN)
            share = step.settings["val_fraction"]
            share = 0.01 if share is None else share
            return step.settings["val_tokens"] or (
                None if train is None else round(share * train / BYTES_PER_TOKEN)
            )
        if step.command.name == "tokenizer encode":
            size = self.bytes_of(step.sources["input"])
            return None if size is None else round(size / BYTES_PER_TOKEN)
        return None

    def _data(self, step: Step) -> DataJob | None:
        text, tokenizer = self.text_file(step), self.tokenizer(step)
        if text is None or tokenizer is None:
            return None
        own = ("input", "val_input", "output", "tokenizer", "num_workers", "engine", "scheduler")
        return DataJob(_without(step.line, *own), text, tokenizer)

    def _train(self, step: Step) -> TrainingJob | None:
        vocab = self.vocab_size(step)
        if vocab is None:
            return None
        valid = step.sources.get("val_data_path")
        tokens = self.tokens_of(valid[0]) if valid else None
        return TrainingJob("train", step.line[1:], {"vocab_size": vocab}, eval_tokens=tokens or 0)

    def _post_training(self, step: Step) -> TrainingJob | None:
        model, tokenizer = self.model(step, base=True), self.tokenizer(step)
        if model is None or tokenizer is None:
            return None
        return TrainingJob(step.command.name, step.line[1:], dataclasses.asdict(model), tokenizer)

    def vocab_size(self, step: Step) -> int | None:
        """Ids of the tokenizer that a stage reads or makes."""
        settings = step.settings
        if step.command.name in ("data stories", "tokenizer train"):
            return settings["vocab_size"]
        if settings.get("vocab_size"):
            return settings["vocab_size"]
        for option in ("tokenizer", "train_data_path", "init_from"):
            for source in step.sources.get(option, []):
                if source.stage is not None:
                    return self.vocab_size(self.steps[source.stage])
                return _vocab_there(source.path)
        return None

    def tokenizer(self, step: Step) -> str | None:
        """The path of a stage's tokenizer, or the name of the stage that will train it."""
        for option in ("init_from", "tokenizer", "train_data_path", "folder"):
            for source in step.sources.get(option, []):
                there = source.path / "tokenizer"
                if there.is_dir():
                    return str(there)
                if option in ("tokenizer", "folder") and source.path.exists():
                    return str(source.path)
                if source.stage is not None:
                    other = self.steps[source.stage]
                    return other.name if other.command.name == "tokenizer train" else self.tokenizer(other)
        return None

    def model(self, step: Step, base: bool = False) -> ModelConfig | None:
        """The model that a stage trains, or the one that it starts from."""
        if base:
            (source,) = step.sources["init_from"]
            if (source.path / "config.yaml").is_file():
                return read_model(source.path)
            return None if source.stage is None else self.model(self.steps[source.stage])
        if step.command.name == "train":
            config: ModelConfig = step.values.model
            return dataclasses.replace(config, vocab_size=self.vocab_size(step)).resolved()
        if step.command.name == "import":
            (source,) = step.sources["folder"]
            path = source.path / "config.json"
            length = step.settings["context_length"]
            return from_config_json(json.loads(path.read_text(encoding="utf-8")), path, length)
        if step.command.name in ("sft", "dpo") and (model := self.model(step, base=True)) is not None:
            more = CHAT_TOKENS if step.command.name == "sft" else 0
            changed = {
                f.name: getattr(step.values.model, f.name)
                for f in dataclasses.fields(ModelConfig)
                if getattr(step.values.model, f.name) != f.default
            }
            return dataclasses.replace(model, **{"vocab_size": (model.vocab_size or 0) + more} | changed)
        return None


def _without(line: list[str], *names: str) -> list[str]:
    """A command line without these options and their values."""
    flags = ["--" + name.replace("_", "-") for name in names]
    kept: list[str] = []
    dropping = False
    for word in line:
        if word.startswith("-"):
            dropping = word.partition("=")[0] in flags
        if not dropping:
            kept.append(word)
    return kept


BYTES_PER_TOKEN = 4.0
STORY_BYTES_PER_TOKEN = 4.556
"""of the built-in stories with 4,096 ids"""


def _vocab_there(path: Path) -> int | None:
    """Ids of a tokenizer, token file or run that exists."""
    side = Path(f"{path}.json")
    if side.is_file():
        return json.loads(side.read_text(encoding="utf-8")).get("vocab_size")
    if (path / "config.yaml").is_file():
        return read_model(path).vocab_size
    if (path / "vocab.json").is_file():
        return len(json.loads((path / "vocab.json").read_text(encoding="utf-8")))
    return None
