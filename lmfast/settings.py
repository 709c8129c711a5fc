"""Settings of the commands: dataclasses and the YAML files that fill them.

The settings of a command are one dataclass of groups (model, data, optimizer, run, logging). YAML files and command
lines see them flat: `d_model: 256` in a file is `--d-model 256` or `--d_model 256`; aliases (`lr`) work in both. The
command line overrides the file, the file overrides the default. An unknown name is an error that suggests the closest
one (suggestions.py). `extends: quickstart` in a file builds on another file.

YAML scalars are coerced by field type (`1e-3` is a string in YAML); a value of the wrong type is an error that names
the file, the setting and the expected type. Command lines are parsed in cli/settings_line.py. Does not import torch.
"""

import contextlib
import dataclasses
import difflib
import shlex
import types
import typing
from collections.abc import Collection, Sequence
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
    """Command-line details of a setting, placed in the field's `Annotated` type.

    aliases: other names, valid in YAML too. positional: an argument without a name. help: help text that is computed at
    import. bare: value when the option is given without one. negated: value of the --no- form.
    """

    aliases: tuple[str, ...] = ()
    positional: bool = False
    help: str | None = None
    bare: str | None = None
    negated: str | None = None


@dataclass(frozen=True)
class DataSettings:
    """Training and validation data. Without any, the built-in stories are used."""

    train_data_path: Annotated[str | None, Option(aliases=("train_data",))] = None
    """token file to train on (.npy, .bin, or text of ids)"""
    val_data_path: Annotated[str | None, Option(aliases=("val_data",))] = None
    """token file to evaluate on"""
    tokenizer: str | None = None
    """tokenizer folder or file, for bits per byte and samples; defaults to the token file's; 'none' trains without one"""
    document_mask: bool = False
    """restrict attention to the token's own document; <|endoftext|> separates documents"""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, or Muon with AdamW; linear warmup, then a schedule over steps, time, or both."""

    batch_size: int = 32
    """sequences per forward pass, summed over all processes"""
    grad_accumulation: int = 1
    """forward passes per optimizer step; a step sees batch_size * grad_accumulation sequences"""
    batch_ramp_iters: int = 0
    """steps over which the forward passes per step grow from batch_ramp_start to grad_accumulation; 0 disables the ramp"""
    batch_ramp_start: int = 1
    """forward passes in the first step of a batch ramp"""
    max_iters: int | None = None
    """optimizer steps; 100000 if none of max_iters, total_tokens and max_minutes is set"""
    total_tokens: int | None = None
    """tokens to train on, rounded up to whole steps; alternative to max_iters"""
    max_minutes: float | None = None
    """end after N minutes of running time, with the schedule and the last evaluation finished; not bit-reproducible"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon uses Muon for the matrices of the blocks and AdamW for embeddings, head and norms"""
    learning_rate: Annotated[float, Option(aliases=("lr",))] = 1e-4
    """peak learning rate"""
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """decay after the warmup: cosine, linear, or constant followed by a linear decay (wsd)"""
    min_lr: float | None = None
    """learning rate at the end of the schedule; defaults to learning_rate / 10 for cosine, 0 for linear and wsd"""
    decay_fraction: float = 0.2
    """wsd: fraction of the steps after the warmup in which the learning rate decays"""
    warmup_iters: int = 1000
    """steps of linear warmup"""
    lr_decay_iters: int | None = None
    """step at which min_lr is reached; defaults to max_iters"""
    weight_decay: float = 0.1
    """decoupled weight decay, applied to matrices only"""
    beta1: float = 0.9
    """AdamW: decay rate of the first moment"""
    beta2: float = 0.95
    """AdamW: decay rate of the second moment"""
    muon_lr: float | None = None
    """muon: peak learning rate of the matrices; defaults to learning_rate"""
    muon_momentum: float = 0.95
    """muon: momentum"""
    z_loss: float = 0.0
    """weight of logsumexp(logits) squared in the training loss; not part of the validation loss"""
    load_balance: float = 0.01
    """num_experts: weight of the load-balancing loss in training (1 if balanced); not part of the validation loss"""
    grad_clip: float = 1.0
    """maximum global gradient norm; 0 disables clipping"""


@dataclass(frozen=True)
class RunSettings:
    """Run folder, device and precision."""

    out_dir: Annotated[str | None, Option(aliases=("checkpoint_dir",))] = None
    """run folder; an unfinished run in it is resumed; defaults to runs/train-N"""
    resume: bool = False
    """resume the run in out_dir, or the newest run"""
    init_from: str | None = None
    """run folder or checkpoint to take the initial weights from"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """device to train on"""
    compile: bool = False
    """compile the training step with torch.compile"""
    bf16: bool = False
    """autocast matrix products to bfloat16; weights and optimizer stay fp32"""
    fp16: bool = False
    """autocast matrix products to float16 with loss scaling, for GPUs without bfloat16 (T4, V100)"""
    fp8: bool = False
    """with bf16: train feed-forward and head in FP8 (compute capability 8.9 or newer); evaluation uses bf16"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    """with several processes: whole copies of the model (ddp), shards (fsdp), or shards of a copy per machine (hsdp)"""
    tensor_parallel: int = 1
    """split the layers of the model over N processes; N must divide the heads, the hidden units and the vocabulary"""
    activation_checkpointing: Literal["none", "block", "selective"] = "none"
    """recompute activations in the backward to save memory: those of whole blocks, or (selective) all but products"""
    seed: int = 0
    """seed of initial weights, batches and dropout"""


@dataclass(frozen=True)
class LoggingSettings:
    """Evaluation, checkpoints and logs."""

    eval_interval: int = 100
    """steps between evaluations on val_data_path; 0 evaluates only at the end"""
    eval_batches: int = 0
    """length of an evaluation in optimizer steps' worth of tokens; 0 reads the whole file once"""
    eval_tasks: str | None = None
    """also evaluate on these tasks of lm-eval, separated by commas, such as arc_easy,piqa; 'none' turns it off"""
    eval_tasks_interval: int = 1000
    """steps between evaluations on eval_tasks; 0 evaluates only at the end"""
    eval_tasks_limit: int = 200
    """first examples of each task to evaluate on; 0 uses all"""
    eval_tasks_include_path: str | None = None
    """directory with further task files (YAML)"""
    log_interval: int = 10
    """steps between lines of metrics"""
    checkpoint_interval: int = 1000
    """steps between checkpoints; the last step is always saved"""
    keep_checkpoints: int = 2
    """number of newest checkpoints to keep, in addition to the best one; 0 keeps all"""
    sample_interval: int = 0
    """steps between samples of generated text; 0 disables them"""
    tensorboard: bool = False
    """also write TensorBoard event files"""
    wandb: Annotated[Literal["off", "online", "offline"], Option(bare="online", negated="off")] = "off"
    """log to Weights & Biases; --wandb alone means online, --no-wandb means off"""
    wandb_project: str = "lmfast"
    """W&B project"""
    wandb_name: str | None = None
    """W&B run name; defaults to the name of the run folder"""
    wandb_entity: str | None = None
    """W&B user or team"""


@dataclass(frozen=True)
class TrainSettings:
    """Train a language model on token files."""

    config: str | None = None
    """YAML settings file, or the name of a built-in one, such as quickstart; options on the command line override it"""
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)


def selected_precision(settings: Any) -> Precision:
    """The precision of matrix products that the flags bf16 and fp16 select. Raises UserError if both are set."""
    if settings.bf16 and settings.fp16:
        raise UserError("bf16 and fp16 are both set; give only one of them")
    return "bf16" if settings.bf16 else "fp16" if settings.fp16 else "fp32"


def flat_types(cls: type) -> dict[str, Any]:
    """{setting: type} of a settings dataclass and its groups, without `Annotated`."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= flat_types(hint)
        else:
            found[name] = hint
    return found


def to_flat(settings: Any) -> dict[str, Any]:
    """{setting: value} of all groups."""
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


def find_config(name: str, folder: Path | None = None, kind: str = "settings file") -> Path:
    """Path of a YAML file, given by path or by the name of a built-in one in `folder`, by default configs/.

    kind: what the error message calls it."""
    built_in = folder or CONFIGS
    for path in (Path(name), built_in / name, built_in / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(p.stem for p in built_in.glob("*.yaml"))
    own = f"configs/{name}.yaml" if folder is None else f"configs/{folder.name}/{name}.yaml"
    near = [f for f in (f"{name}.yaml", own) if Path(f).is_file()]  # the user's own
    near += difflib.get_close_matches(Path(name).stem, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the built-in ones are {', '.join(known)}"
    raise UserError(f"{shlex.quote(name)}: no such {kind}; {hint}")


def read_yaml(path: Path, cls: type, others: Sequence[type] = ()) -> dict[str, Any]:
    """The flat settings of a YAML file: aliases resolved, values coerced to the types of `cls`.

    `extends: NAME` (a path relative to this file, or a name in configs/) loads another file first. others: further
    settings classes whose names the file may contain, for a command that reads the files of other commands. Raises
    UserError for unknown names and for settings given twice.
    """
    hints, aliases = flat_types(cls), setting_aliases(cls)
    for other in others:
        hints, aliases = flat_types(other) | hints, setting_aliases(other) | aliases
    values = {}
    for file, loaded in reversed(_extended_files(path)):
        values |= _checked(loaded, str(file), hints, aliases, {"extends"})
    return values


def check_settings(loaded: dict[str, Any], where: str, cls: type) -> dict[str, Any]:
    """The flat settings of a part of a YAML file, checked as `read_yaml` does. where: the start of error messages."""
    return _checked(loaded, where, flat_types(cls), setting_aliases(cls))


def _extended_files(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file, the one that it extends, and so on, each with its own settings."""
    chain: dict[Path, tuple[Path, dict[str, Any]]] = {}
    while True:
        if path.resolve() in chain:
            raise UserError(
                f"{path}: extends itself through {counted(len(chain), 'file')}; remove one `extends`"
            )
        loaded = load_yaml(path)
        chain[path.resolve()] = path, loaded
        if "extends" not in loaded:
            return list(chain.values())
        name = loaded.pop("extends")
        if not isinstance(name, str):
            raise UserError(f"{path}: extends is {_as_yaml(name)}; expected the name of one settings file")
        sibling = path.parent / name
        try:
            path = sibling if sibling.is_file() else find_config(name)
        except UserError as error:
            raise UserError(f"{path}: extends {error}") from None


def _checked(
    loaded: dict[str, Any],
    where: str,
    hints: dict[str, Any],
    aliases: dict[str, str],
    others: Collection[str] = (),
) -> dict[str, Any]:
    """Settings under their full names, as the types of their fields. others: further names to suggest."""
    values, spelt = {}, {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in hints | aliases or name == "config":
            near = remedy(name, {*hints, *others} - {"config"}, dashes="")
            raise UserError(f"{where}: unknown setting '{key}'{f'; {near}' if near else ''}")
        name = aliases.get(name, name)
        if name in values:
            raise UserError(
                f"{where}: {name} is given twice, as '{spelt[name]}' and '{key}'; remove one of them"
            )
        values[name], spelt[name] = coerce(value, hints[name], f"{where}: {name}"), key
    return one_run_length(values)


def one_run_length(values: dict[str, Any]) -> dict[str, Any]:
    """Adds to `values` that the other of max_iters and total_tokens is unset, if only one of them is given.

    So the nearer source (command line, file, extended file, default) decides between them."""
    lengths = ("max_iters", "total_tokens")
    given = [name for name in lengths if values.get(name) is not None]
    return dict.fromkeys(lengths) | values if len(given) == 1 else values


def load_yaml(path: Path) -> dict[str, Any]:
    """The names and values of a YAML file, not yet resolved. Raises UserError for duplicate names and other content."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a value such as 2026-13-45
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        found = "a list" if isinstance(loaded, list) else f"only {str(loaded)[:40]!r}"
        raise UserError(f"{path}: expected lines of `name: value`, found {found}")
    return loaded


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that rejects duplicate names, where PyYAML silently keeps the last."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name} is given twice")
        return super().construct_mapping(node, deep)


def read_model(folder: Path) -> ResolvedConfig:
    """The model described by the config.yaml of a run folder, whichever command wrote it."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: not a run folder (no config.yaml); give one such as runs/quickstart")
    hints = flat_types(ModelConfig)
    values = {k: coerce(v, hints[k], f"{path}: {k}") for k, v in load_yaml(path).items() if k in hints}
    return dataclasses.replace(ModelConfig(), **values).resolved()


def write_yaml(path: Path, settings: Any) -> None:
    """The inverse of `read_yaml`: flat, in the order of the dataclass, without the name of the config file."""
    flat = {name: value for name, value in to_flat(settings).items() if name != "config"}
    with atomic_write(path, durable=True) as temporary:
        temporary.write_text(yaml.safe_dump(flat, sort_keys=False, allow_unicode=True), encoding="utf-8")


def field_option(hint: Any) -> Option:
    """The `Option` in a field's annotation, or the default."""
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Option)), Option())


def setting_aliases(cls: type) -> dict[str, str]:
    """{alias: setting} of a settings dataclass and its groups."""
    found = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= setting_aliases(hint)
        found |= dict.fromkeys(field_option(hint).aliases, name)
    return found


def coerce(value: Any, hint: Any, where: str) -> Any:
    """A YAML value as the field's type. Raises UserError starting with `where` if it has another type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return coerce(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        # YAML 1.1 reads `off` as False and `on` as True; --wandb alone means online.
        value = "off" if value is False and "off" in args else value
        value = "online" if value is True and "online" in args else value
        if value in args:
            return value
        raise UserError(f"{where} is {_as_yaml(value)}; expected one of {', '.join(map(str, args))}")
    if hint is bool and isinstance(value, bool):
        return value
    if (
        hint is str
        and isinstance(value, (str, int, float))
        and not isinstance(value, bool)
        and "\0" not in str(value)
    ):
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
    """A value in YAML syntax."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).split("\n")[0]
