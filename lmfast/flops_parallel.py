"""What `lmfast flops` reports about several GPUs: memory of each, bytes sent, time lost to communication, expected MFU.

In: the settings of the command. Out: entries for its facts. Rejects sizes that do not divide, and rates that are not rates.
"""

from dataclasses import dataclass
from typing import Any

from lmfast.errors import UserError
from lmfast.model.accounting import training_flops_per_token
from lmfast.model.activations import Checkpointing
from lmfast.model.bisection import largest_satisfying
from lmfast.model.communication import Links, bytes_sent, parse_rate, recomputed_share, step_time
from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.model.memory import USABLE
from lmfast.model.parallel_memory import Layout, RankMemory, keeps_whole_gradient, rank_memory
from lmfast.training.parallel.tensor_check import model_blocker


@dataclass(frozen=True)
class Cluster:
    """How a model is trained on several GPUs; batch: sequences of a forward pass of one data rank."""

    layout: Layout
    batch: int
    passes: int
    checkpointing: Checkpointing
    links: Links | None
    whole_gradient: bool = False
    """whether a GPU keeps the whole gradient until the last pass; otherwise it reduces gradients after each"""

    @property
    def reductions(self) -> int:
        """Reductions of gradients per step."""
        return self.passes if self.layout.shards > 1 and not self.whole_gradient else 1


def check_cluster(settings: Any) -> None:
    """Raises UserError if the model or the batch cannot be divided as `settings` (FlopsSettings) say."""
    gpus, split = settings.gpus, settings.tensor_parallel
    config: ModelConfig = settings.model
    for name in ("gpus", "tensor_parallel", "gpus_per_node", "grad_accumulation"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1")
    if reason := _fp8_blocker(settings):
        raise UserError(reason)
    if gpus % split:
        raise UserError(
            f"tensor_parallel {split} needs a multiple of {split} GPUs, not {gpus}; "
            f"add --gpus {-(-gpus // split) * split}, or use --tensor-parallel 1"
        )
    machine = machine_size(settings)
    if gpus % machine:
        raise UserError(
            f"gpus {gpus} is not divisible by gpus_per_node {machine}; use a divisor of {gpus}, or "
            f"--gpus {-(-gpus // machine) * machine}"
        )
    if machine % split:
        raise UserError(
            f"tensor_parallel {split} does not divide gpus_per_node {machine}; tensor ranks need one machine's links"
        )
    if settings.batch_size % (gpus // split):
        raise UserError(
            f"batch_size {settings.batch_size} is not divisible by the {gpus // split} data ranks that share it; "
            f"choose a multiple of {gpus // split}"
        )
    if split > 1 and config.vocab_size is not None and (reason := model_blocker(config.resolved(), split)):
        raise UserError(reason)
    if settings.parallel == "hsdp":
        if machine == 1 and gpus > 1:
            raise UserError(
                "parallel hsdp shards within a machine, but each machine has one GPU; use --parallel fsdp or ddp, or "
                "numbers for --gpus and --gpus-per-node that give machines more"
            )
        if gpus == machine:
            lower = f"or lower --gpus-per-node below {gpus}, " if gpus > 3 else ""
            enough = 2 * max(machine, settings.gpus_per_node or 8)
            raise UserError(
                f"parallel hsdp needs several machines; add --gpus {enough}, {lower}or use --parallel fsdp"
            )
    for name in ("link", "network"):
        value = getattr(settings, name)
        if value is not None:
            parse_rate(value, name)
            if gpus == 1:
                raise UserError(f"{name} has no effect with one GPU; add --gpus")
    if settings.link is not None and gpus > machine and settings.network is None:
        raise UserError(
            f"{gpus} GPUs on machines of {machine} also need the rate of the network; add for example --network 400Gb/s"
        )


def machine_size(settings: Any) -> int:
    """GPUs per machine; by default the largest number up to 8 that divides all GPUs into machines of whole tensor groups."""
    gpus, split = settings.gpus, settings.tensor_parallel
    sizes = (size for size in range(min(gpus, 8), 0, -1) if gpus % size == 0 and size % split == 0)
    return settings.gpus_per_node or next(sizes, split)


def _fp8_blocker(settings: Any) -> str | None:
    """Why training would reject fp8; None if it would not."""
    split, kind = settings.tensor_parallel, settings.parallel
    if settings.dtype != "fp8":
        return None
    if settings.model.num_experts:
        return "fp8 does not support num_experts; use --dtype bf16"
    if split > 1:
        return f"fp8 does not work with tensor_parallel {split}; use --dtype bf16, or --tensor-parallel 1"
    if kind in ("fsdp", "hsdp") and settings.gpus > 1:
        return f"fp8 is not supported with parallel {kind}, which gathers weights in bf16; use --dtype bf16"
    return None


def make_cluster(settings: Any, dtype: str, memory_bytes: float | None) -> Cluster:
    """The cluster of checked settings. parallel auto: as training chooses, ddp with fp8, if it
    fits the memory or if that is unknown, otherwise fsdp."""
    split, machine, gpus = settings.tensor_parallel, machine_size(settings), settings.gpus
    batch, kind = settings.batch_size * split // gpus, settings.parallel
    links = None
    if settings.link is not None:
        network = None if settings.network is None else parse_rate(settings.network, "network")
        links = Links(parse_rate(settings.link, "link") / 2, network)  # both directions together
    if kind == "auto":
        whole, again = Layout("ddp", gpus, split, machine), settings.activation_checkpointing
        need = rank_memory(settings.model, batch, dtype, whole, checkpointing=again).total
        kind = "ddp" if dtype == "fp8" or memory_bytes is None or need <= USABLE * memory_bytes else "fsdp"
    layout = Layout(kind, gpus, split, machine)
    passes, again = settings.grad_accumulation, settings.activation_checkpointing
    whole = keeps_whole_gradient(
        settings.model, batch, dtype, layout, passes, memory_bytes, checkpointing=again
    )
    return Cluster(layout, batch, passes, again, links, whole)


def cluster_memory(cluster: Cluster, config: ModelConfig, dtype: str) -> RankMemory:
    """Memory of one GPU."""
    kind, whole = cluster.checkpointing, cluster.whole_gradient
    return rank_memory(config, cluster.batch, dtype, cluster.layout, checkpointing=kind, whole_gradient=whole)


def largest_cluster_batch(cluster: Cluster, config: ModelConfig, dtype: str, memory_bytes: float) -> int:
    """The largest batch of a forward pass over all GPUs whose memory fits without the whole gradient, or 0."""
    kind, layout = cluster.checkpointing, cluster.layout
    per_rank = largest_satisfying(
        lambda batch: (
            rank_memory(config, batch, dtype, layout, checkpointing=kind).total <= USABLE * memory_bytes
        )
    )
    return per_rank * cluster.layout.data_ranks


def cluster_facts(
    cluster: Cluster, config: ResolvedConfig, dtype: str, peak: float | None, mfu: float
) -> dict[str, Any]:
    """Entries of --json. peak: FLOP/s of one GPU, None if unknown; mfu: the fraction of it without communication, with
    recomputation."""
    layout, passes, kind = cluster.layout, cluster.passes, cluster.checkpointing
    length = config.context_length
    sent = bytes_sent(config, cluster.batch * length, dtype, layout, passes, kind, cluster.reductions)
    tokens = cluster.batch * length * layout.data_ranks * passes
    facts: dict[str, Any] = {
        "gpus": layout.ranks,
        "parallel": layout.kind,
        "tensor_parallel": layout.tensor_parallel,
        "gpus_per_node": layout.ranks_per_machine,
        "grad_accumulation": passes,
        "reductions_per_step": cluster.reductions,
        "tokens_per_step": tokens,
        "bytes_sent_per_gpu": {"total": sent.total, **vars(sent)},
    }
    if cluster.links is None or peak is None:
        return facts
    time = step_time(
        config, cluster.batch, dtype, layout, cluster.links, mfu * peak, passes, kind, cluster.reductions
    )
    rate = tokens / time.total
    flops = training_flops_per_token(config, length)
    return facts | {
        "link_bytes_per_second": cluster.links.within,
        "network_bytes_per_second": cluster.links.network,
        "seconds": {"total": time.total, **vars(time)},
        "mfu_without_communication": mfu / (1 + recomputed_share(config, length, kind)),
        "mfu": rate * flops / (layout.ranks * peak),
        "tokens_per_second": rate,
        "tokens_per_second_per_gpu": rate / layout.ranks,
    }


def cluster_lines(facts: dict[str, Any]) -> list[str]:
    """The entries of `cluster_facts` as text."""
    names = {"gathered": "weights gathered", "reduced": "gradients reduced", "replicas": "gradients between machines",
             "tensor": "tensor-parallel sums"}  # fmt: skip
    sent = facts["bytes_sent_per_gpu"]
    parts = ", ".join(f"{label} {sent[name] / 1e9:,.3g}" for name, label in names.items() if sent[name])
    split = f", layers split over {facts['tensor_parallel']}" if facts["tensor_parallel"] > 1 else ""
    lines = [
        f"{facts['gpus']} GPUs, {facts['gpus_per_node']} per machine, {facts['parallel']}{split}: "
        f"{facts['tokens_per_step']:,} tokens per step",
        f"each GPU sends {sent['total'] / 1e9:,.3g} GB per step" + (f" ({parts})" if parts else ""),
    ]
    if facts["reductions_per_step"] > 1:
        lines.append(
            f"gradients are reduced after each of the {facts['grad_accumulation']} passes of a step, because whole "
            "gradients (4 bytes per parameter) do not fit the memory of a GPU"
        )
    if facts["parallel"] == "hsdp" and facts["tensor_parallel"] > 1:
        lines.append("on paper only: lmfast does not combine hsdp with --tensor-parallel")
    if "seconds" not in facts:
        return [*lines, "add --link, such as 900GB/s, for the time of communication"]
    seconds, network = facts["seconds"], facts["network_bytes_per_second"]
    rates = f"{facts['link_bytes_per_second'] / 1e9:g} GB/s each way" + (
        "" if network is None else f", between machines {network / 1e9:g} GB/s per GPU"
    )
    return [
        *lines,
        f"communication: {_milliseconds(seconds['communication'])} per step at {rates}; "
        f"computation hides all but {_milliseconds(seconds['exposed'])} of it",
        f"a step takes {_milliseconds(seconds['total'])}: expected MFU {facts['mfu']:.1%} "
        f"({facts['mfu_without_communication']:.1%} without communication), "
        f"{facts['tokens_per_second']:,.0f} tokens/s, {facts['tokens_per_second_per_gpu']:,.0f} per GPU",
    ]


def _milliseconds(seconds: float) -> str:
    """Three digits, or all before the decimal point."""
    value = 1e3 * seconds
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"
