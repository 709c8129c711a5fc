"""python -m lmfast.flops: what a model costs, before it is trained; and what a device can train in given hours.

In: a model's shape (flags, or the YAML file of a run of lmfast.train, sft or dpo). Out: parameters and FLOPs by component,
memory, the largest batch, time on a device; a table for people, --json for programs, --plot FILE for a picture. With
--hours the inverse: model size and token count. Torch is loaded only where this machine's own device must be looked at.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from lmfast.cli.settings_line import SettingsParser, named_settings, parse
from lmfast.errors import UserError, exit_on_user_error
from lmfast.files import check_writable
from lmfast.model.accounting import (
    CONVENTION,
    forward_flops,
    num_parameters,
    parameters,
    training_flops_per_token,
)
from lmfast.model.budget import compute_optimal, propose_shape, training_seconds
from lmfast.model.config import ModelConfig
from lmfast.model.memory import USABLE, kv_cache_bytes_per_token, largest_batch, training_memory
from lmfast.model.peaks import DEVICES, local_peak, named_peak
from lmfast.settings import (
    OptimizerSettings,
    Option,
    RunSettings,
    TrainSettings,
    find_config,
    flat_types,
    read_model,
    read_yaml,
    selected_precision,
)
from lmfast.streams import standard_output
from lmfast.training.post_training_settings import DPOSettings, SFTSettings
from lmfast.training.resolve import batch_ramp

GB = 1e9
MatmulDtype = Literal["bf16", "fp16", "fp32", "fp8"]
COMMANDS = (TrainSettings, SFTSettings, DPOSettings)
"""whose files --config reads"""
POST_TRAINING = {name for cls in COMMANDS for name in flat_types(cls)} - flat_types(TrainSettings).keys()
"""settings that tell a file of sft or dpo from one of train"""
MAX_NUMBER = 1e15
"""of any number given, and 1 / MAX_NUMBER the least above 0: far beyond all models and machines, well within a float"""
CHINCHILLA = 20.0
LOCAL_DEVICES = ("auto", "cuda", "cpu", "mps")
TIME_SETTINGS = {"total_tokens", "tokens_per_parameter", "mfu"}
"""settings that ask for a time: named without a device, they mean this machine"""
DEVICE_HELP = (
    f"for times and the largest batch: {', '.join(d.name for d in DEVICES)}; or this machine's own (auto, cuda, cpu, "
    "mps), measured where its name is not among these"
)

MEMORY_ASSUMPTIONS = (
    "Memory: fp32 weights, gradients and AdamW moments, {dtype} products, this project's GPU kernels, no recomputation, "
    "the loss without logits; GB are 10^9 bytes. On a CPU the plain operators keep more activations"
)


@dataclass(frozen=True)
class FlopsSettings:
    """Count a model's parameters, FLOPs, memory and training time; or, with --hours, find the model for a budget."""

    config: str | None = None
    """YAML file of a run of train, sft or dpo, or the name of one in configs/; the command line beats it"""
    model: ModelConfig = field(default_factory=ModelConfig)
    init_from: str | None = None
    """run folder or checkpoint whose model is counted, as sft and dpo train it; other settings beat it"""
    batch_size: int = 32
    """sequences in one forward pass, for the memory of a step"""
    dtype: MatmulDtype | None = None
    """of the matrix products; when not set, what the YAML file's bf16 and fp16 say, and bf16 without a file"""
    device: Annotated[str | None, Option(help=DEVICE_HELP)] = None
    memory: float | None = None
    """GB (10^9 bytes) that the largest batch may use; the device's own when not set"""
    total_tokens: int | None = None
    """tokens to train on; when not set, what the YAML file says"""
    tokens_per_parameter: float | None = None
    """instead of total_tokens: tokens for each parameter. With --hours 20 when not set"""
    mfu: float = 0.4
    """share of the device's peak that training reaches, for times"""
    hours: float | None = None
    """the inverse: model size and tokens that this time on the device allows"""
    json: bool = False
    """print JSON instead of a table"""
    plot: str | None = None
    """picture to write (.png, .svg, .pdf): the components' shares as the context grows"""


class ResolvedFlops(FlopsSettings):
    """Settings with the type of the matrix products set, and checked."""

    dtype: MatmulDtype


def build_parser() -> SettingsParser:
    return SettingsParser(FlopsSettings, "lmfast flops")


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    with exit_on_user_error():
        standard_output()
        given = named_settings(argv, FlopsSettings)
        settings = parse(FlopsSettings, argv, "lmfast flops", others=COMMANDS)
        file = _read_config(settings.config)
        if "vocab_size" in file and "init_from" in given:
            raise UserError(f"{settings.config}: gives the model's shape itself; leave --init-from out")
        if "vocab_size" not in file and (settings.config or settings.init_from) is not None:
            base = _base(settings, file, given)
            settings = parse(FlopsSettings, argv, "lmfast flops", base, COMMANDS)
        settings = resolve(settings, file, given)
        if settings.plot is not None:
            check_writable(settings.plot)
        if settings.hours is None or settings.device is None:
            facts = cost(settings)
        else:
            facts = budget(settings, settings.hours, settings.device)
        from lmfast.flops_output import plot_shares, print_budget, print_cost

        if settings.plot is not None:
            plot_shares(settings.model.resolved(), settings.plot)
        if settings.json:
            print(json.dumps(facts, indent=1))
        else:
            (print_cost if settings.hours is None else print_budget)(facts)
            if settings.plot is not None:
                print(settings.plot)


def _read_config(name: str | None) -> dict[str, Any]:
    return {} if name is None else read_yaml(find_config(name), FlopsSettings, COMMANDS)


def _base(settings: FlopsSettings, file: dict[str, Any], given: set[str]) -> FlopsSettings:
    """The defaults under a file without a vocabulary: sft and dpo take the model's shape from the run in init_from (sft adds
    the chat's tokens to its ids) and have a smaller batch. Raises UserError where that run is not named."""
    after = bool(POST_TRAINING & file.keys())
    defaults = replace(FlopsSettings(), batch_size=SFTSettings().optimizer.batch_size if after else 32)
    if settings.init_from is None:
        if after and not given & flat_types(ModelConfig).keys():
            raise UserError(
                f"{settings.config}: settings of lmfast sft or dpo, which train the model of a run; add --init-from RUN, "
                "or give the shape, such as --vocab-size and --d-model"
            )
        return defaults
    run = Path(settings.init_from)
    of_checkpoint = run.absolute().parent.parent
    if not (run / "config.yaml").is_file() and (of_checkpoint / "config.yaml").is_file():
        run = of_checkpoint
    model = read_model(run)
    if after and (run / "tokenizer").is_dir():
        from lmfast.data.chat import add_chat_tokens
        from lmfast.tokenizer.bpe import Tokenizer

        ids = add_chat_tokens(Tokenizer.load(run / "tokenizer")).vocab_size
        model = replace(model, vocab_size=max(model.vocab_size, ids))
    return replace(defaults, model=model)


def resolve(settings: FlopsSettings, file: dict[str, Any], given: set[str]) -> ResolvedFlops:
    """What follows from the YAML file and from what the command line names, filled in; then everything checked."""
    if "batch_size" not in given and "beta" in file:
        settings = replace(settings, batch_size=2 * settings.batch_size)  # of dpo: pairs
    dtype = settings.dtype
    if dtype is None:
        flags = {name: file[name] for name in ("bf16", "fp16") if name in file}
        named = selected_precision(RunSettings(**flags))
        dtype = "bf16" if settings.config is None else named
    if "total_tokens" not in given and {"tokens_per_parameter", "hours"} & given:
        settings = replace(settings, total_tokens=None)  # the file's: the line beats it
    elif settings.total_tokens is None and settings.hours is None and file.get("max_iters") is not None:
        names = ("grad_accumulation", "batch_ramp_iters", "batch_ramp_start")
        passes = {name: file[name] for name in names if name in file}
        batch = batch_ramp(OptimizerSettings(batch_size=settings.batch_size, **passes))
        sequences = batch.rows_before(file["max_iters"])
        settings = replace(settings, total_tokens=sequences * settings.model.context_length)
    if settings.device is None and settings.hours is None and given & TIME_SETTINGS:
        settings = replace(settings, device="auto")
    check(settings)
    resolved: dict[str, Any] = vars(settings) | {"dtype": dtype}
    return ResolvedFlops(**resolved)


def check(settings: FlopsSettings) -> None:
    """Raises UserError for values that mean nothing, and for settings that contradict each other."""
    for name in ("batch_size", "memory", "total_tokens", "tokens_per_parameter", "hours"):
        value = getattr(settings, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} is {value}; it must be a number greater than 0")
    for name, value in [*vars(settings).items(), *vars(settings.model).items()]:
        if isinstance(value, int | float) and not value <= MAX_NUMBER:
            raise UserError(f"{name} is {value}; more than {MAX_NUMBER:g} is not counted here")
        if isinstance(value, float) and 0 < value < 1 / MAX_NUMBER:
            raise UserError(f"{name} is {value}; less than {1 / MAX_NUMBER:g} is not counted here")
    if not 0 < settings.mfu <= 1:
        raise UserError(f"mfu is {settings.mfu}; it is a share of the peak, above 0 and at most 1")
    if settings.total_tokens is not None and settings.tokens_per_parameter is not None:
        raise UserError(
            "total_tokens and tokens_per_parameter are both set; they say the same thing, give one"
        )
    if settings.hours is not None:
        if settings.device is None:
            raise UserError(
                "hours is set without a device; give --device L4, say, or auto for this machine's"
            )
        if settings.total_tokens is not None:
            raise UserError("hours finds the token count; leave total_tokens out, or hours")
        if settings.plot is not None:
            raise UserError(
                "plot shows the shares of a given shape, and hours looks for one; leave one of them out"
            )


def cost(settings: ResolvedFlops) -> dict[str, Any]:
    """Everything about one shape, as it is printed with --json; bytes, FLOPs and seconds, unrounded."""
    config = settings.model.resolved()
    dtype, length, batch = settings.dtype, config.context_length, settings.batch_size
    forward = forward_flops(config, length)
    memory = training_memory(config, batch, dtype)
    facts: dict[str, Any] = {
        "convention": CONVENTION,
        "memory_assumptions": MEMORY_ASSUMPTIONS.format(dtype=dtype),
        "config": asdict(config),
        "dtype": dtype,
        "parameters": {"total": num_parameters(config), **parameters(config)},
        "forward_flops_per_sequence": {"total": sum(forward.values()), **forward},
        "training_flops_per_sequence": {
            "total": 3 * sum(forward.values()),
            **{name: 3 * value for name, value in forward.items()},
        },
        "training_flops_per_token": training_flops_per_token(config, length),
        "memory_bytes": {"batch_size": batch, "total": memory.total, **vars(memory)},
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config, 4 if dtype == "fp32" else 2),
    }
    device = None
    if settings.device is not None:
        facts["device"] = device = _device(settings.device, dtype)
        rate = settings.mfu * device["peak_flops"] / facts["training_flops_per_token"]
        facts["time"] = {"mfu": settings.mfu, "tokens_per_second": rate}
        tokens = settings.total_tokens
        if settings.tokens_per_parameter is not None:
            tokens = round(settings.tokens_per_parameter * facts["parameters"]["total"])
        if tokens is not None:
            seconds = training_seconds(config, length, tokens, device["peak_flops"], settings.mfu)
            facts["time"] |= {"total_tokens": tokens, "seconds": seconds}
    facts |= _largest_batch(settings, config, dtype, device)
    return facts


def budget(settings: ResolvedFlops, hours: float, device_name: str) -> dict[str, Any]:
    """The inverse: model size and tokens for hours on a device, and a shape of about that size."""
    dtype = settings.dtype
    device = _device(device_name, dtype)
    ratio = settings.tokens_per_parameter or CHINCHILLA
    flops = settings.mfu * device["peak_flops"] * hours * 3600
    size, tokens = compute_optimal(flops, ratio)
    facts: dict[str, Any] = {
        "convention": CONVENTION,
        "device": device,
        "hours": hours,
        "mfu": settings.mfu,
        "dtype": dtype,
        "training_flops": flops,
        "tokens_per_parameter": ratio,
        "parameters": round(size),
        "tokens": round(tokens),
        "shape": None,
    }
    if settings.model.vocab_size is not None:
        settings.model.resolved()
        proposal = propose_shape(settings.model, flops, ratio)
        if proposal is None:
            raise UserError(
                f"vocab_size {settings.model.vocab_size} alone costs more than {hours:g} hours; "
                "choose a smaller one, or more hours"
            )
        facts["shape"] = {
            "config": asdict(proposal.config),
            "parameters": proposal.parameters,
            "tokens": proposal.tokens,
            "training_flops": proposal.flops,
            "seconds": proposal.flops / (settings.mfu * device["peak_flops"]),
            **_largest_batch(settings, proposal.config, dtype, device),
        }
    return facts


def _device(name: str, dtype: str) -> dict[str, Any]:
    """{name, peak_flops, peak_source, memory_bytes (None where it is not known)}"""
    if name not in LOCAL_DEVICES:
        known, peak = named_peak(name, dtype)
        return {
            "name": known.name,
            "peak_flops": peak,
            "peak_source": f"dense {dtype}, {known.source}",
            "memory_bytes": known.memory_gb * GB,
        }
    from lmfast.model.device import describe_machine, pick_device

    device = pick_device(name)
    peak, source = local_peak(device, dtype)
    memory = None
    if device.type == "cuda":
        import torch

        memory = torch.cuda.get_device_properties(device).total_memory
    return {
        "name": describe_machine(device)["device"],
        "peak_flops": peak,
        "peak_source": source,
        "memory_bytes": memory,
    }


def _largest_batch(settings: FlopsSettings, config: ModelConfig, dtype: str, device: dict | None) -> dict:
    memory = settings.memory * GB if settings.memory is not None else (device or {}).get("memory_bytes")
    if memory is None:
        return {}
    batch = largest_batch(config, memory, dtype)
    return {"largest_batch": {"memory_bytes": memory, "usable_share": USABLE, "batch_size": batch}}


if __name__ == "__main__":
    main()
