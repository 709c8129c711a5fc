"""Memory and communication of several GPUs on paper, as the tables in docs/guides/parallel.md.

    python -m bench.parallel_table              # prints them
    python -m bench.parallel_table --write      # replaces those in the guide

Everything is computed by lmfast/model/parallel_memory.py and communication.py for H100 SXM; nothing is measured.
"""

import argparse
from pathlib import Path

from lmfast.model.accounting import num_parameters, training_flops_per_token
from lmfast.model.activations import Checkpointing
from lmfast.model.communication import Links, bytes_sent, step_time
from lmfast.model.config import ModelConfig
from lmfast.model.parallel_memory import Layout, rank_memory
from lmfast.model.peaks import named_peak

GUIDE = Path(__file__).resolve().parents[1] / "docs/guides/parallel.md"
PEAK = named_peak("H100 SXM", "bf16")[1]
REACHED = 0.4  # of the peak, without communication
KINDS: tuple[Checkpointing, ...] = ("none", "selective", "block")

# name → (model, sequences per GPU, what is recomputed in the table of communication)
MODELS: dict[str, tuple[ModelConfig, int, Checkpointing]] = {
    "124M": (
        ModelConfig(vocab_size=50257, d_ff=2048, tie_embeddings=True),
        16, "none",
    ),
    "1.5B": (
        ModelConfig(vocab_size=50257, d_model=1600, num_layers=48, num_heads=25, d_ff=4288, tie_embeddings=True),
        8, "selective",
    ),
    "8B": (
        ModelConfig(
            vocab_size=128_256, context_length=8192, d_model=4096, num_layers=32, num_heads=32, num_kv_heads=8,
            d_ff=14336,
        ),
        1, "selective",
    ),
    "70B": (
        ModelConfig(
            vocab_size=128_256, context_length=8192, d_model=8192, num_layers=80, num_heads=64, num_kv_heads=8,
            d_ff=28672,
        ),
        1, "block",
    ),
}  # fmt: skip
LAYOUTS = {
    "8, ddp": Layout("ddp", 8),
    "8, fsdp": Layout("fsdp", 8),
    "64, fsdp": Layout("fsdp", 64, ranks_per_machine=8),
    "64, hsdp": Layout("hsdp", 64, ranks_per_machine=8),
}
NVLINK, PCIE = 900e9 / 2, 64e9 / 2  # one direction; PCIe 4.0 with 16 lanes
LINKS = {
    8: {"NVLink": Links(NVLINK), "PCIe": Links(PCIE)},
    64: {"NVLink, 400 Gb/s": Links(NVLINK, 400e9 / 8), "NVLink, 100 Gb/s": Links(NVLINK, 100e9 / 8)},
}
TORCHTITAN = {"eager": (5762, 82.4), "torch.compile": (6667, 77.0)}
"""(tokens per second and GPU, GiB of memory); benchmarks/llama3_h100_202412_torchtitan.md, table 1"""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def memory_table() -> str:
    """GB per GPU, by layout and by what is recomputed."""
    rows = []
    for name, (config, batch, _) in MODELS.items():
        for label, layout in {"1": Layout(), **LAYOUTS}.items():
            totals = [rank_memory(config, batch, "bf16", layout, checkpointing=kind).total for kind in KINDS]
            rows.append(
                [f"{name}, {batch} × {config.context_length:,}", label, *(f"{x / 1e9:,.1f}" for x in totals)]
            )
    return table(["model, sequences per GPU", "GPUs", *(f"{kind}: GB" for kind in KINDS)], rows)


def communication_table() -> str:
    """Bytes, exposed time and MFU, by layout and links."""
    rows = []
    for name, (config, batch, kind) in MODELS.items():
        flops = training_flops_per_token(config, config.context_length) * batch * config.context_length
        for label, layout in LAYOUTS.items():
            if layout.kind == "ddp" and num_parameters(config) > 4e9:
                continue  # does not fit
            sent = bytes_sent(config, batch * config.context_length, "bf16", layout, 1, kind).total
            for links, rates in LINKS[layout.ranks].items():
                time = step_time(config, batch, "bf16", layout, rates, REACHED * PEAK, 1, kind)
                rows.append(
                    [f"{name}, {kind}", label, links, f"{sent / 1e9:,.2f}", f"{1e3 * time.communication:,.0f}",
                     f"{1e3 * time.exposed:,.1f}", f"{1e3 * time.total:,.0f}", f"{flops / time.total / PEAK:.1%}"]
                )  # fmt: skip
    head = [
        "model, recomputed",
        "GPUs",
        "links",
        "sent: GB",
        "communication: ms",
        "exposed: ms",
        "step: ms",
        "MFU",
    ]
    return table(head, rows)


def torchtitan_table() -> str:
    """Llama 3 8B on 8 H100: what torchtitan measured, and our formulas at the rate of computation that it implies."""
    config, batch = MODELS["8B"][0], 2
    flops = training_flops_per_token(config, config.context_length)
    layout, tokens = Layout("fsdp", 8), batch * config.context_length
    rows = []
    for name, (rate, memory) in TORCHTITAN.items():
        seconds = tokens / rate
        time = step_time(config, batch, "bf16", layout, Links(NVLINK), REACHED * PEAK)
        without = flops * tokens / (seconds - time.exposed) / PEAK
        ours = rank_memory(config, batch, "bf16", layout, checkpointing="selective").total
        rows.append(
            [name, f"{rate:,}", f"{1e3 * seconds:,.0f}", f"{flops * rate / PEAK:.1%}", f"{1e3 * time.communication:,.0f}",
             f"{1e3 * time.exposed:,.0f}", f"{without:.1%}", f"{memory * 2**30 / 1e9:.1f}", f"{ours / 1e9:.1f}"]
        )  # fmt: skip
    head = ["torchtitan", "tokens/s per GPU", "step: ms", "MFU, our convention", "communication: ms", "exposed: ms",
            "MFU without it", "their memory: GB", "ours, selective: GB"]  # fmt: skip
    return table(head, rows)


TABLES = {"memory": memory_table, "communication": communication_table, "torchtitan": torchtitan_table}


def with_tables(text: str) -> str:
    """The guide with its tables replaced; each stands between `<!-- table NAME -->` and `<!-- end -->`."""
    for name, make in TABLES.items():
        before, begin, rest = text.partition(f"<!-- table {name} -->")
        _, end, after = rest.partition("<!-- end -->")
        assert begin and end, f"{GUIDE}: has no table {name}"
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the tables in docs/guides/parallel.md")
    if parser.parse_args().write:
        GUIDE.write_text(with_tables(GUIDE.read_text("utf-8")), "utf-8")
    else:
        print("\n\n".join(make() for make in TABLES.values()))


if __name__ == "__main__":
    main()
