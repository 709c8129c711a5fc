"""python -m lmfast.flops: the cost of a model before it is trained, or the model that a time budget allows.

Input: the shape of a model (options, or the YAML file of a train, sft or dpo run). Output: parameters and FLOPs by
component, memory, the largest batch and the time on a device, as a table, as --json, or as a --plot. --hours solves the
inverse problem: model size and token count. Imports torch only to query the device of this machine.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.cli.settings_line import SettingsParser, named_settings, parse
from lmfast.errors import UserError
from lmfast.files import check_writable
from lmfast.flops_parallel import (
    Cluster,
    check_cluster,
    cluster_facts,
    cluster_memory,
    largest_cluster_batch,
    make_cluster,
)
from lmfast.hardware import may_have_gpu
from lmfast.model.accounting import (
    CONVENTION,
    EXPERTS_CONVENTION,
    active_parameters,
    forward_flops,
    num_parameters,
    parameters,
    training_flops_per_token,
)
from lmfast.model.activations import Checkpointing
from lmfast.model.budget import Proposal, compute_optimal, propose_shape
from lmfast.model.communication import recomputation_flops, recomputed_share
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
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.post_training_settings import DPOSettings, SFTSettings
from lmfast.training.resolve import batch_ramp

GB = 1e9
MatmulDtype = Literal["bf16", "fp16", "fp32", "fp8"]
COMMANDS = (TrainSettings, SFTSettings, DPOSettings)
"""settings classes whose files --config accepts"""
POST_TRAINING = {name for cls in COMMANDS for name in flat_types(cls)} - flat_types(TrainSettings).keys()
"""settings that occur only in files of sft and dpo"""
MAX_NUMBER = 1e15
"""upper bound of numeric settings, and 1 / MAX_NUMBER the lower bound above 0: keeps all products finite"""
CHINCHILLA = 20.0
LOCAL_DEVICES = ("auto", "cuda", "cpu", "mps")
TIME_SETTINGS = {"total_tokens", "tokens_per_parameter", "mfu"}
"""settings that request a time; without --device, the time on this machine"""
DEVICE_HELP = (
    f"device for times and the largest batch: {', '.join(d.name for d in DEVICES)}, or auto, cuda, cpu, mps for this "
    "machine"
)

MEMORY_ASSUMPTIONS = (
    "Memory: fp32 weights, gradients and AdamW moments, {dtype} products, lmfast's GPU kernels, {recomputation}, "
    "no stored logits; GB are 10^9 bytes. On a CPU, PyTorch's operators store more activations"
)
RECOMPUTATION = {
    "none": "no recomputation",
    "block": "activations of each block recomputed in its backward",
    "selective": "activations other than products recomputed in the backward",
}


@dataclass(frozen=True)
class FlopsSettings:
    """Count parameters, FLOPs, memory and training time; with --hours, find the model for a time budget."""

    config: str | None = None
    """YAML file of a train, sft or dpo run, or the name of a built-in one, such as gpt2_xl; options override it"""
    model: ModelConfig = field(default_factory=ModelConfig)
    init_from: str | None = None
    """run folder or checkpoint whose model to count; options override its shape"""
    batch_size: int = 32
    """sequences per forward pass, over all GPUs, for the memory of a step"""
    dtype: MatmulDtype | None = None
    """type of the matrix products; defaults to the YAML file's bf16 and fp16, or bf16 without a file"""
    device: Annotated[str | None, Option(help=DEVICE_HELP)] = None
    memory: float | None = None
    """GB (10^9 bytes) available for the largest batch; defaults to the device's memory"""
    total_tokens: int | None = None
    """tokens to train on; defaults to the YAML file's"""
    tokens_per_parameter: float | None = None
    """tokens per (active) parameter, instead of total_tokens; defaults to 20 with --hours"""
    mfu: float = 0.4
    """assumed fraction of the device's peak, for times; recomputation counts as well"""
    activation_checkpointing: Checkpointing = "none"
    """recompute activations in the backward: those of whole blocks, or (selective) all but products"""
    gpus: int = 1
    """number of GPUs, for the memory of each and the time of communication"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    """with several GPUs: whole copies of the model (ddp), shards (fsdp), or shards of a copy per machine (hsdp)"""
    tensor_parallel: int = 1
    """GPUs that share the layers of a copy"""
    grad_accumulation: int = 1
    """forward passes per step, for communication"""
    gpus_per_node: int | None = None
    """GPUs of a machine; defaults to 8, or the largest smaller number that divides the GPUs"""
    link: str | None = None
    """rate of the link of a GPU to those of its machine, both directions together, such as 900GB/s (NVLink of an H100)"""
    network: str | None = None
    """rate of the network of a GPU to other machines, per direction, such as 400Gb/s"""
    hours: float | None = None
    """find the model size and token count that this time on the device allows"""
    json: bool = False
    """print JSON instead of a table"""
    plot: str | None = None
    """write a plot (.png, .svg, .pdf) of each component's share of the FLOPs against context length"""


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
            raise UserError(f"{settings.config}: already gives the shape of the model; remove --init-from")
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
    """The defaults for a file without vocab_size: the shape of the run in init_from, plus the chat tokens for sft and dpo.

    Raises UserError if init_from is needed but not given."""
    after = bool(POST_TRAINING & file.keys())
    defaults = replace(FlopsSettings(), batch_size=SFTSettings().optimizer.batch_size if after else 32)
    if settings.init_from is None:
        if after and not given & flat_types(ModelConfig).keys():
            raise UserError(
                f"{settings.config}: settings of sft or dpo do not give the shape of the model; add --init-from RUN, "
                "or options such as --vocab-size and --d-model"
            )
        return defaults
    run = Path(settings.init_from)
    of_checkpoint = run.absolute().parent.parent
    if not (run / "config.yaml").is_file() and (of_checkpoint / "config.yaml").is_file():
        run = of_checkpoint
    model = read_model(run)
    if after and (run / "tokenizer").is_dir():
        from lmfast.data.chat import add_chat_tokens

        ids = add_chat_tokens(Tokenizer.load(run / "tokenizer")).vocab_size
        model = replace(model, vocab_size=max(model.vocab_size, ids))
    return replace(defaults, model=model)


def resolve(settings: FlopsSettings, file: dict[str, Any], given: set[str]) -> ResolvedFlops:
    """Fills in the settings that follow from the YAML file and the command line, then checks all of them."""
    if "batch_size" not in given and "beta" in file:
        settings = replace(settings, batch_size=2 * settings.batch_size)  # dpo counts pairs
    dtype = settings.dtype
    if dtype is None:
        flags = {name: file[name] for name in ("bf16", "fp16") if name in file}
        named = selected_precision(RunSettings(**flags))
        dtype = "bf16" if settings.config is None else named
    if "total_tokens" not in given and {"tokens_per_parameter", "hours"} & given:
        settings = replace(settings, total_tokens=None)  # the command line overrides the file
    elif settings.total_tokens is None and settings.hours is None and file.get("max_iters") is not None:
        names = ("batch_ramp_iters", "batch_ramp_start")
        passes: dict[str, Any] = {name: file[name] for name in names if name in file}
        passes["grad_accumulation"] = settings.grad_accumulation
        batch = batch_ramp(OptimizerSettings(batch_size=settings.batch_size, **passes))
        sequences = batch.rows_before(file["max_iters"])
        settings = replace(settings, total_tokens=sequences * settings.model.context_length)
    if settings.device is None and settings.hours is None:
        if given & TIME_SETTINGS:
            settings = replace(settings, device="auto")
        elif settings.link is not None:
            settings = replace(settings, device="auto" if may_have_gpu() else "H100 SXM")
    check(settings)
    resolved: dict[str, Any] = vars(settings) | {"dtype": dtype}
    return ResolvedFlops(**resolved)


def check(settings: FlopsSettings) -> None:
    """Raises UserError for values out of range and for settings that exclude each other."""
    for name in ("batch_size", "memory", "total_tokens", "tokens_per_parameter", "hours"):
        value = getattr(settings, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} is {value}; it must be a number greater than 0")
    for name, value in [*vars(settings).items(), *vars(settings.model).items()]:
        if isinstance(value, int | float) and not value <= MAX_NUMBER:
            raise UserError(f"{name} is {value}; it must be at most {MAX_NUMBER:g}")
        if isinstance(value, float) and 0 < value < 1 / MAX_NUMBER:
            raise UserError(f"{name} is {value}; it must be at least {1 / MAX_NUMBER:g}")
    if not 0 < settings.mfu <= 1:
        raise UserError(f"mfu is {settings.mfu}; it must be above 0 and at most 1")
    if settings.total_tokens is not None and settings.tokens_per_parameter is not None:
        raise UserError("total_tokens and tokens_per_parameter are both set; give only one of them")
    check_cluster(settings)
    if settings.hours is not None:
        if settings.gpus > 1:
            raise UserError("hours and gpus are both set; give only one of them")
        if settings.device is None:
            raise UserError("hours requires a device; add for example --device L4, or --device auto")
        if settings.total_tokens is not None:
            raise UserError("hours and total_tokens are both set; give only one of them")
        if settings.plot is not None:
            raise UserError("hours and plot are both set; give only one of them")


def cost(settings: ResolvedFlops) -> dict[str, Any]:
    """The cost of one shape, as printed by --json: bytes, FLOPs and seconds, unrounded."""
    config = settings.model.resolved()
    dtype, length, batch = settings.dtype, config.context_length, settings.batch_size
    forward = forward_flops(config, length)
    kind, length = settings.activation_checkpointing, config.context_length
    again = recomputation_flops(config, length, kind)
    device = None if settings.device is None else _device(settings.device, dtype)
    capacity = _capacity(settings, device)
    cluster = None if settings.gpus == 1 else make_cluster(settings, dtype, capacity)
    if cluster is None:
        memory = training_memory(config, batch, dtype, checkpointing=kind)
    else:
        memory, batch = cluster_memory(cluster, config, dtype), cluster.batch
    facts: dict[str, Any] = {
        "convention": _convention(config),
        "memory_assumptions": MEMORY_ASSUMPTIONS.format(dtype=dtype, recomputation=RECOMPUTATION[kind]),
        "config": asdict(config),
        "dtype": dtype,
        "parameters": {"total": num_parameters(config), **parameters(config)},
        "active_parameters": active_parameters(config),
        "forward_flops_per_sequence": {"total": sum(forward.values()), **forward},
        "training_flops_per_sequence": {
            "total": 3 * sum(forward.values()),
            **{name: 3 * value for name, value in forward.items()},
        },
        "training_flops_per_token": training_flops_per_token(config, length),
        "recomputation_flops_per_sequence": again,
        "memory_bytes": {"batch_size": batch, "total": memory.total, **vars(memory)},
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config, 4 if dtype == "fp32" else 2),
    }
    peak = None if device is None else device["peak_flops"]
    if cluster is not None:
        facts["cluster"] = cluster_facts(cluster, config, dtype, peak, settings.mfu)
    if device is not None:
        facts["device"] = device
        mfu = settings.mfu / (1 + recomputed_share(config, length, kind))
        rate = settings.gpus * mfu * device["peak_flops"] / facts["training_flops_per_token"]
        together = facts.get("cluster", {})
        rate = together.get("tokens_per_second", rate)
        facts["time"] = {"mfu": together.get("mfu", mfu), "tokens_per_second": rate}
        tokens = settings.total_tokens
        if settings.tokens_per_parameter is not None:
            tokens = round(settings.tokens_per_parameter * facts["active_parameters"])
        if tokens is not None:
            facts["time"] |= {"total_tokens": tokens, "seconds": tokens / rate}
    facts |= _largest_batch(settings, config, dtype, capacity, cluster)
    return facts


def budget(settings: ResolvedFlops, hours: float, device_name: str) -> dict[str, Any]:
    """Model size and token count for `hours` on a device, and a shape of about that size."""
    dtype = settings.dtype
    device = _device(device_name, dtype)
    ratio = settings.tokens_per_parameter or CHINCHILLA
    hardware = settings.mfu * device["peak_flops"] * hours * 3600  # recomputation included
    proposal = None
    share = 1 / 3 if settings.activation_checkpointing == "block" else 0.0  # of recomputation, at most
    if settings.model.vocab_size is not None:
        proposal, share = _proposal(settings, hardware, ratio, hours)
    flops = hardware / (1 + share)
    size, tokens = compute_optimal(flops, ratio)
    facts: dict[str, Any] = {
        "convention": _convention(settings.model),
        "device": device,
        "hours": hours,
        "mfu": settings.mfu / (1 + share),
        "dtype": dtype,
        "training_flops": flops,
        "tokens_per_parameter": ratio,
        "parameters": round(size),
        "tokens": round(tokens),
        "shape": None,
    }
    if proposal is not None:
        facts["shape"] = {
            "config": asdict(proposal.config),
            "parameters": num_parameters(proposal.config),
            "active_parameters": proposal.parameters,
            "tokens": proposal.tokens,
            "training_flops": proposal.flops,
            "seconds": proposal.flops * hours * 3600 / flops,
            **_largest_batch(settings, proposal.config, dtype, _capacity(settings, device), None),
        }
    return facts


def _proposal(settings: ResolvedFlops, hardware: float, ratio: float, hours: float) -> tuple[Proposal, float]:
    """(shape whose training and recomputation take at most `hardware` FLOPs, recomputed share). Raises UserError if none."""
    model, kind = settings.model, settings.activation_checkpointing
    length, share = model.resolved().context_length, 0.0
    proposal = propose_shape(model, hardware, ratio)
    if proposal is not None and kind == "block":  # a smaller model has a smaller share
        share = recomputed_share(proposal.config, length, kind)
        proposal = propose_shape(model, hardware / (1 + share), ratio)
    if proposal is None:
        raise UserError(
            f"no model with vocab_size {model.vocab_size} can be trained in {hours:g} hours; "
            "reduce it, or allow more hours"
        )
    return proposal, share


def _convention(config: ModelConfig) -> str:
    return f"{CONVENTION}. {EXPERTS_CONVENTION}" if config.num_experts else CONVENTION


def _device(name: str, dtype: str) -> dict[str, Any]:
    """{name, peak_flops, peak_source, memory_bytes (None if unknown)}"""
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


def _capacity(settings: FlopsSettings, device: dict[str, Any] | None) -> float | None:
    """Bytes of memory of one device, if known."""
    return settings.memory * GB if settings.memory is not None else (device or {}).get("memory_bytes")


def _largest_batch(
    settings: FlopsSettings, config: ModelConfig, dtype: str, memory: float | None, cluster: Cluster | None
) -> dict[str, Any]:
    if memory is None:
        return {}
    facts: dict[str, Any] = {"memory_bytes": memory, "usable_share": USABLE}
    if cluster is None:
        facts["batch_size"] = largest_batch(config, memory, dtype, settings.activation_checkpointing)
    else:
        facts["batch_size"] = largest_cluster_batch(cluster, config, dtype, memory)
        facts["of"] = f"all {settings.gpus} GPUs together"
    return {"largest_batch": facts}


if __name__ == "__main__":
    main()
