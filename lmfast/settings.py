"""Settings of the commands: dataclasses and YAML files, in one place and with one set of names.

A command's settings are one dataclass of groups (model, data, optimizer, run, logging); seen from YAML and from
the command line they are flat: `d_model: 256` in a file is `--d-model 256` or `--d_model 256` on the line, and an alias
of the line (`lr`) is one in a file. The line beats the file, the file beats the default. An unknown name is refused, with
the known one that is nearest in meaning (suggestions.py). No torch here.

`extends: quickstart` in a file builds on another one.

YAML scalars are coerced by the field's type (`1e-3` is a string to YAML and a float to us); a value of the wrong
kind is an error that names the file, the setting and what was expected. Command lines: cli/settings_line.py.
"""

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.suggestions import remedy

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Precision = Literal["fp32", "bf16", "fp16"]

_PACKAGE = Path(__file__).resolve().parent
# Inside the package in an installed wheel, next to it in a checkout.
CONFIGS = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()),
    _PACKAGE / "configs",
)


@dataclass(frozen=True)
class Option:
    """How a setting differs on the command line from one option of its name. Goes into the field's `Annotated` type.

    aliases: other names, in YAML too. positional: an argument without a name. help: the text, where it is computed. bare:
    the value of the option without one. negated: the value of its --no- form.
    """

    aliases: tuple[str, ...] = ()
    positional: bool = False
    help: str | None = None
    bare: str | None = None
    negated: str | None = None


@dataclass(frozen=True)
class DataSettings:
    """What is read. With no data given, the built-in stories are prepared and trained on."""

    train_data_path: Annotated[str | None, Option(aliases=("train_data",))] = None
    """token file to train on (.npy, .bin, or text of ids)"""
    val_data_path: Annotated[str | None, Option(aliases=("val_data",))] = None
    """token file to evaluate on"""
    tokenizer: str | None = None
    """tokenizer folder or file, for bits per byte and samples; the token file's own when not set; none: without one"""
    document_mask: bool = False
    """a token attends to its own document only; documents begin at <|endoftext|>"""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW or Muon with AdamW, linear warmup, and a schedule by steps, by the clock, or both."""

    batch_size: int = 32
    """sequences in one forward pass, summed over all ranks"""
    grad_accumulation: int = 1
    """forward passes in one optimizer step; a step sees batch_size * grad_accumulation sequences"""
    batch_ramp_iters: int = 0
    """steps over which the forward passes of a step grow from batch_ramp_start to grad_accumulation; 0: no ramp"""
    batch_ramp_start: int = 1
    """forward passes in the first step of a batch ramp"""
    max_iters: int | None = None
    """optimizer steps; 100000 when neither this nor total_tokens nor max_minutes is set"""
    total_tokens: int | None = None
    """instead of max_iters: tokens to train on, rounded up to whole steps"""
    max_minutes: float | None = None
    """end after so many minutes, schedule finished, last evaluation included, stops not counted; with max_iters,
    whichever comes first. What a clock ends cannot be repeated to the bit"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon: Muon for the blocks' matrices and AdamW for embeddings, head and norms"""
    learning_rate: Annotated[float, Option(aliases=("lr",))] = 1e-4
    """peak learning rate"""
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """after the warmup: half a cosine, a straight line, or the peak rate until a linear decay (wsd)"""
    min_lr: float | None = None
    """learning rate at the schedule's end; when not set, a tenth of learning_rate for cosine, 0 for linear and wsd"""
    decay_fraction: float = 0.2
    """wsd: share of the run after the warmup in which the rate falls"""
    warmup_iters: int = 1000
    """steps of linear warmup"""
    lr_decay_iters: int | None = None
    """step at which min_lr is reached; max_iters when not set (none where only max_minutes ends the run)"""
    weight_decay: float = 0.1
    """decoupled weight decay, on matrices only"""
    beta1: float = 0.9
    """AdamW's decay of the mean"""
    beta2: float = 0.95
    """AdamW's decay of the squared mean"""
    muon_lr: float | None = None
    """muon: peak learning rate of its matrices; learning_rate when not set"""
    muon_momentum: float = 0.95
    """muon: decay of its momentum"""
    z_loss: float = 0.0
    """weight of logsumexp(logits) squared, added to the training loss; evaluation leaves it out"""
    grad_clip: float = 1.0
    """largest global gradient norm; 0 turns clipping off"""


@dataclass(frozen=True)
class RunSettings:
    """Where and how the run executes."""

    out_dir: Annotated[str | None, Option(aliases=("checkpoint_dir",))] = None
    """run folder; an unfinished run in it resumes. runs/train-N when not set"""
    resume: bool = False
    """go on with the run in out_dir, or with the newest run"""
    init_from: str | None = None
    """run folder or checkpoint whose weights the model starts from"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """where to compute"""
    compile: bool = False
    """compile the step with torch.compile"""
    bf16: bool = False
    """autocast matrix products to bfloat16; weights and optimizer stay fp32"""
    fp16: bool = False
    """autocast matrix products to float16, with a loss scale: for GPUs without bfloat16 (T4, V100)"""
    fp8: bool = False
    """with bf16: feed-forward and head in FP8 while training (GPUs from compute capability 8.9 on); evaluation in bf16"""
    seed: int = 0
    """decides the initial weights, the batches and the dropout"""


@dataclass(frozen=True)
class LoggingSettings:
    """What is written while training."""

    eval_interval: int = 100
    """steps between evaluations on val_data_path; 0 evaluates at the end only"""
    eval_batches: int = 0
    """optimizer steps' worth of text in one evaluation; 0 covers the whole file once"""
    log_interval: int = 10
    """steps between lines of metrics"""
    checkpoint_interval: int = 1000
    """steps between checkpoints; the last step always gets one"""
    keep_checkpoints: int = 2
    """newest checkpoints kept, besides the one of the best validation loss, written when it is found; 0 keeps all"""
    sample_interval: int = 0
    """steps between samples of generated text; 0 turns them off"""
    tensorboard: bool = False
    """also write TensorBoard event files"""
    wandb: Annotated[Literal["off", "online", "offline"], Option(bare="online", negated="off")] = "off"
    """Weights & Biases logging; a bare --wandb means online, --no-wandb means off"""
    wandb_project: str = "lmfast"
    """W&B project"""
    wandb_name: str | None = None
    """W&B run name; the run folder's name when not set"""
    wandb_entity: str | None = None
    """W&B user or team"""


@dataclass(frozen=True)
class TrainSettings:
    """Train a language model on token files."""

    config: str | None = None
    """YAML file of settings, or the name of one in configs/; the command line beats it"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)


def selected_precision(settings: Any) -> Precision:
    """What matrix products compute in by a command's flags bf16 and fp16. Raises UserError where both are set."""
    if settings.bf16 and settings.fp16:
        raise UserError("bf16 and fp16 are both set; matrix products have one type, give one of them")
    return "bf16" if settings.bf16 else "fp16" if settings.fp16 else "fp32"


def flat_types(cls: type) -> dict[str, Any]:
    """{setting: type} of a settings dataclass and its groups, `Annotated` taken off."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= flat_types(hint)
        else:
            found[name] = hint
    return found


def to_flat(settings: Any) -> dict[str, Any]:
    """{setting: value}, groups opened."""
    flat = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value):
            flat |= to_flat(value)
        else:
            flat[f.name] = value
    return flat


def replace_flat(settings: T, values: dict[str, Any]) -> T:
    """A copy of `settings` with the named flat values in their groups."""
    changes = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[f.name] = replace_flat(value, values)
        elif f.name in values:
            changes[f.name] = values[f.name]
    return dataclasses.replace(settings, **changes)


def find_config(name: str) -> Path:
    """A YAML file by path, or by the bare name of one in configs/."""
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    near = difflib.get_close_matches(Path(name).stem, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"configs/ has: {', '.join(known)}"
    raise UserError(f"{name}: no such settings file; {hint}")


def read_yaml(path: Path, cls: type, others: Sequence[type] = ()) -> dict[str, Any]:
    """The flat settings of a YAML file, aliases resolved, coerced to the types of `cls`. Raises UserError on anything
    unknown, and on a setting given twice.

    `extends: NAME` builds on another file, a path from this one's folder or the name of one in configs/, whose settings this
    one's override. others: settings whose names the file may hold too, for a command that needs a part of other commands'
    files.
    """
    return _read_chain(path, cls, others, ())


def _read_chain(path: Path, cls: type, others: Sequence[type], above: tuple[Path, ...]) -> dict[str, Any]:
    """`above`: the files that lead here by their `extends`."""
    if path.resolve() in above:
        raise UserError(
            f"{path}: extends itself, by way of {counted(len(above), 'file')}; take one extends out"
        )
    loaded = _load_yaml(path)
    base = {}
    if "extends" in loaded:
        name = loaded.pop("extends")
        if not isinstance(name, str):
            raise UserError(f"{path}: extends is {_as_yaml(name)}; expected the name of one settings file")
        sibling = path.parent / name
        try:
            file = sibling if sibling.is_file() else find_config(name)
        except UserError as error:
            raise UserError(f"{path}: extends {error}") from None
        base = _read_chain(file, cls, others, (*above, path.resolve()))
    hints, aliases = flat_types(cls), setting_aliases(cls)
    for other in others:
        hints, aliases = flat_types(other) | hints, setting_aliases(other) | aliases
    values = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in hints | aliases or name == "config":
            near = remedy(name, hints.keys() - {"config"}, dashes="")
            raise UserError(f"{path}: unknown setting '{key}'{f'; {near}' if near else ''}")
        name = aliases.get(name, name)
        if name in values:
            raise UserError(f"{path}: {name} is given twice, once as '{key}'; leave one of them out")
        values[name] = _coerce(value, hints[name], f"{path}: {name}")
    return base | one_run_length(values)


def one_run_length(values: dict[str, Any]) -> dict[str, Any]:
    """Values that override those of a base (a file's `extends`, the command line's file, the defaults): if they set one of
    max_iters and total_tokens, they unset the other."""
    lengths = ("max_iters", "total_tokens")
    given = [name for name in lengths if values.get(name) is not None]
    return dict.fromkeys(lengths) | values if len(given) == 1 else values


def _load_yaml(path: Path) -> dict:
    """What a YAML file says, its names and values as they stand there."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        found = "a list" if isinstance(loaded, list) else f"only {str(loaded)[:40]!r}"
        raise UserError(f"{path}: expected lines of `name: value`, found {found}")
    return loaded


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a name given twice is an error, not a silent choice of the last."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name} is given twice")
        return super().construct_mapping(node, deep)


def read_model(folder: Path) -> ResolvedConfig:
    """The model that a run folder's config.yaml describes, whichever command wrote that."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder}: not a run folder (no config.yaml in it); name one such as runs/quickstart"
        )
    hints = flat_types(ModelConfig)
    values = {k: _coerce(v, hints[k], f"{path}: {k}") for k, v in _load_yaml(path).items() if k in hints}
    return dataclasses.replace(ModelConfig(), **values).resolved()


def write_yaml(path: Path, settings: Any) -> None:
    """The inverse of `read_yaml`: flat, in the order of the dataclass, the name of the config file left out."""
    flat = {name: value for name, value in to_flat(settings).items() if name != "config"}
    with atomic_write(path, durable=True) as temporary:
        temporary.write_text(yaml.safe_dump(flat, sort_keys=False, allow_unicode=True), encoding="utf-8")


def field_option(hint: Any) -> Option:
    """The `Option` in a field's annotation; without one, the default."""
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Option)), Option())


def setting_aliases(cls: type) -> dict[str, str]:
    """{alias: setting} of a settings dataclass and its groups."""
    found = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= setting_aliases(hint)
        found |= dict.fromkeys(field_option(hint).aliases, name)
    return found


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """A YAML value as the field's type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        # YAML 1.1 reads a bare `off` as False and a bare `none` as the string "none".
        value = "off" if value is False and "off" in args else value
        # And a bare `on` or `true` as True, which is what --wandb alone means.
        value = "online" if value is True and "online" in args else value
        if value in args:
            return value
        raise UserError(f"{where} is {_as_yaml(value)}; expected one of {', '.join(map(str, args))}")
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if hint in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
            if hint is float:
                return number
            if number == int(number):
                return int(value) if isinstance(value, int) else int(number)
    raise UserError(f"{where} is {_as_yaml(value)}; expected {_PLAIN[hint]}")


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _as_yaml(value: Any) -> str:
    """A value as a file spells it."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).split("\n")[0]
