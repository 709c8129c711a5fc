"""The output of `lmfast flops`: tables, lines, and the plot of FLOP shares.

Input: the dictionaries of `lmfast.flops.cost` and `.budget` (bytes, FLOPs, seconds). Text goes to standard output, with
rules and colours only on a terminal. Rejects --plot without matplotlib and unknown image suffixes.
"""

import math
from dataclasses import asdict
from typing import Any

from rich import box as boxes
from rich.console import Console
from rich.table import Table

from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.flops_parallel import cluster_lines
from lmfast.model.accounting import CONVENTION, forward_flops
from lmfast.model.config import ModelConfig
from lmfast.streams import standard_output
from lmfast.units import duration

GB = 1e9


def print_cost(facts: dict[str, Any]) -> None:
    """Prints components, memory, one line per further fact, and the conventions."""
    console, box = _console()
    number = _count if console.width < 100 else "{:,}".format  # all digits where they fit
    short, narrow = console.width < 100, console.width < 76
    config, length = facts["config"], facts["config"]["context_length"]
    console.print(_title(config))
    table = Table(box=box, pad_edge=False, padding=0 if narrow else (0, 1))
    for heading in ("", "parameters", "%", "forward FLOPs", "training FLOPs", "%"):
        table.add_column(  # in a narrow terminal labels and headings take two lines, and numbers stay whole
            heading.replace(" ", "\n") if short else heading,
            justify="right" if heading else "left",
            no_wrap=bool(heading) or not narrow,
        )
    counts, forward = facts["parameters"], facts["forward_flops_per_sequence"]
    training = facts["training_flops_per_sequence"]
    rows = {
        "embedding": ("embedding", None),
        "position embedding": ("position_embedding", None),
        "attention projections": ("attention", "attention_projections"),
        "attention scores": (None, "attention_scores"),
        "feed-forward": ("feed_forward", "feed_forward"),
        "router": ("router", "router"),
        "norms": ("norms", None),
        "biases": ("biases", None),
        "value embeddings": ("value_embeddings", None),
        "head": ("head", "head"),
        "total": ("total", "total"),
    }
    for label, (count, flops) in rows.items():
        if count in ("position_embedding", "router", "biases", "value_embeddings") and counts[count] == 0:
            continue  # only where the model has them
        if label == "total":
            table.add_section()
        cells = (
            ["", ""] if count is None else [number(counts[count]), _percent(counts[count], counts["total"])]
        )
        cells += ["", "", ""] if flops is None else [
            number(forward[flops]), number(training[flops]), _percent(forward[flops], forward["total"])
        ]  # fmt: skip
        table.add_row(label, *cells, style="bold" if label == "total" else None)
    console.print(table)
    console.print(
        f"for one sequence of {length:,} tokens; {facts['training_flops_per_token']:,.0f} training FLOPs per token"
    )
    if config["num_experts"]:
        console.print(f"{facts['active_parameters']:,} active parameters per token")

    if again := facts["recomputation_flops_per_sequence"]:
        hardware = facts["training_flops_per_sequence"]["total"] + again
        console.print(
            f"recomputation: {again:,.0f} FLOPs more in the backward, not part of MFU; {hardware:,.0f} in all"
        )

    memory = facts["memory_bytes"]
    table = Table(box=box, pad_edge=False)
    on_each = " per data rank" if "cluster" in facts else ""
    table.add_column(f"a training step, batch {memory['batch_size']:,} × {length:,}{on_each}")
    table.add_column("GB", justify="right")
    labels = {
        "weights": "weights (fp32)",
        "gradients": "gradients (fp32)",
        "optimizer": "optimizer (AdamW, fp32)",
        "weight_copies": f"{'16-bit' if facts['dtype'] != 'fp32' else 'autocast'} copies of the matrices",
        "gathered": "weights gathered from other GPUs",
        "reduced": "gradients to be reduced",
        "activations": "activations",
        "recomputed": "recomputed activations of a layer",
        "head_gradient": "head's gradient inside the loss",
        "workspace": "workspace (estimate)",
        "total": "upper bound",
    }
    for name, label in labels.items():
        if name in ("recomputed", "gathered", "reduced") and not memory.get(name):
            continue
        if name == "total":
            table.add_section()
        table.add_row(label, f"{memory[name] / GB:,.3f}", style="bold" if name == "total" else None)
    console.print()
    console.print(table)
    console.print()
    cache = facts["kv_cache_bytes_per_token"]
    console.print(f"KV cache: {cache:,} bytes per token, {cache * length / GB:,.3f} GB for a full context")
    for line in [*_device_lines(facts), *(cluster_lines(facts["cluster"]) if "cluster" in facts else [])]:
        console.print(line)
    console.print(f"\n{facts['convention']}.\n{facts['memory_assumptions']}.", style="dim")


def print_budget(facts: dict[str, Any]) -> None:
    """Prints the model for a time budget."""
    console, _ = _console()
    device, shape = facts["device"], facts["shape"]
    console.print(
        f"{facts['hours']:g} hours on {device['name']} at {facts['mfu']:.0%} of "
        f"{_rate(device['peak_flops'])} ({device['peak_source']}): {facts['training_flops']:.3e} FLOPs"
    )
    console.print(
        f"at {facts['tokens_per_parameter']:g} tokens per parameter: {_count(facts['parameters'])} parameters, "
        f"{_count(facts['tokens'])} tokens (FLOPs = 6 × parameters × tokens)",
        style="bold",
    )
    if shape is None:
        console.print(
            "add --vocab-size (and --context-length) to get a shape of that size, attention included"
        )
        return
    active = f" ({shape['active_parameters']:,} active)" if shape["config"]["num_experts"] else ""
    console.print(f"a shape within the budget: {_title(shape['config'])}")
    console.print(
        f"{shape['parameters']:,} parameters{active}, {shape['tokens']:,} tokens, {duration(shape['seconds'])}, "
        f"{shape['training_flops'] / facts['training_flops']:.0%} of the budget"
    )
    for line in _device_lines(shape):
        console.print(line)
    console.print(f"\n{facts['convention']}.", style="dim")


def _device_lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    if "largest_batch" in facts:
        fit = facts["largest_batch"]
        memory = f"{fit['usable_share']:.0%} of {fit['memory_bytes'] / GB:g} GB"
        of = f", of {fit['of']}" if "of" in fit else ""
        one = "one sequence per data rank" if of else "one sequence"
        lines.append(
            f"largest batch in {memory}{' per GPU' if of else ''}: {fit['batch_size']:,} sequences{of}"
            if fit["batch_size"]
            else f"largest batch in {memory}: not even {one} fits; reduce the model or context_length"
        )
    if "time" in facts:
        device, time = facts["device"], facts["time"]
        share = 0
        if again := facts.get("recomputation_flops_per_sequence"):
            share = again / facts["training_flops_per_sequence"]["total"]
        counted = f" ({time['mfu'] * (1 + share):.0%} with recomputation)" if share else ""
        lines.append(
            f"{device['name']}: {_rate(device['peak_flops'])} ({device['peak_source']}); "
            f"at {time['mfu']:.0%} MFU{counted} {time['tokens_per_second']:,.0f} tokens/s"
        )
        if "seconds" in time:
            lines.append(f"{_count(time['total_tokens'])} tokens take {duration(time['seconds'])}")
    return lines


def _console():
    """(console, table style): rules and colours on a terminal, plain columns of any width elsewhere."""
    if standard_output().isatty():
        return Console(highlight=False), boxes.SIMPLE_HEAD
    return Console(highlight=False, width=200, color_system=None, soft_wrap=True), None


def _title(config: dict[str, Any]) -> str:
    kv = "" if config["num_kv_heads"] == config["num_heads"] else f" ({config['num_kv_heads']} key/value)"
    count = ModelConfig(**config).num_windows
    windows = f", windows of {config['sliding_window']:,} in {count:,} layers" if count else ""
    experts = ""
    if config["num_experts"]:
        experts = f" × {config['num_experts']} experts ({config['experts_per_token']} per token)"
    return (
        f"{config['num_layers']} layers{windows}, d_model {config['d_model']:,}, {config['num_heads']} heads{kv}, "
        f"d_ff {config['d_ff']:,}{experts}, vocabulary {config['vocab_size']:,}, context {config['context_length']:,}"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}"


def _count(value: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:g}"


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.4g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.4g} GFLOP/s"


def plot_shares(config: ModelConfig, path: str) -> None:
    """Plots stacked shares of the forward FLOPs against context lengths of 128 to 131,072 tokens or more."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "--plot needs matplotlib, which is not installed; run `pip install matplotlib`, or use --json"
        ) from None
    # Figure without pyplot: no backend is chosen and nothing global changes.
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.add_subplot()
    bottom = min(7, math.floor(math.log2(config.context_length)))
    top = max(17, math.ceil(math.log2(config.context_length)))
    lengths = [2 ** (i / 4) for i in range(4 * bottom, 4 * top + 1)]
    flops = [forward_flops(config, round(length)) for length in lengths]
    names = {
        "feed_forward": ("feed-forward", "#0072B2"),
        "attention_projections": ("attention projections", "#56B4E9"),
        "router": ("router", "#CC79A7"),
        "head": ("head", "#BBBBBB"),
        "attention_scores": ("attention scores", "#E69F00"),
    }
    if not config.num_experts:
        del names["router"]
    shares = [[100 * f[name] / sum(f.values()) for f in flops] for name in names]
    labels, colors = zip(*names.values(), strict=True)
    axes.stackplot(lengths, shares, labels=labels, colors=colors)
    axes.axvline(config.context_length, color="black", linewidth=1, linestyle="--")
    axes.text(
        config.context_length,
        101,
        f"context_length {config.context_length:,}",
        ha="center",
        va="bottom",
        fontsize=9,
    )
    axes.set_xscale("log", base=2)
    ticks = [2**i for i in range(bottom, top + 1, 2 + (top - bottom) // 12)]
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.set(
        xlim=(lengths[0], lengths[-1]), ylim=(0, 100), xlabel="context (tokens)", ylabel="% of forward FLOPs"
    )
    axes.legend(
        *(part[::-1] for part in axes.get_legend_handles_labels()), loc="center left", bbox_to_anchor=(1, 0.5)
    )
    axes.set_title(f"{_title(asdict(config))}\n", fontsize=10)
    figure.supxlabel(CONVENTION.replace("; ", ";\n"), fontsize=7, color="#555555")
    suffix = path.rpartition(".")[2].lower() if "." in path else ""
    known = figure.canvas.get_supported_filetypes()
    if suffix not in known:
        raise UserError(f"{path}: not an image file name; use .png, .svg or .pdf")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150)
