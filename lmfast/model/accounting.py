"""What a model costs: parameters, FLOPs and the peak rates that MFU divides by. Pure arithmetic on a ModelConfig.

One convention, stated wherever a number is printed: forward = 2 × matmul parameters × tokens
+ 4 × num_layers × d_model × T per token for attention (full, not halved for causality); training = 3 × forward.
Norms, rotations and the embedding look-up are left out. (PaLM, Chowdhery et al. 2022, appendix B.)
"""

import time

from lmfast.model.config import ModelConfig

# Dense matrix rates in FLOP/s by dtype, from the vendors' data sheets (without structured sparsity).
PEAK_FLOPS = {
    "H200": {"bf16": 989e12, "fp16": 989e12, "fp32": 67e12, "fp8": 1979e12},
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "fp32": 51e12, "fp8": 1513e12},
    "H100": {"bf16": 989e12, "fp16": 989e12, "fp32": 67e12, "fp8": 1979e12},
    "B200": {"bf16": 2250e12, "fp16": 2250e12, "fp32": 75e12, "fp8": 4500e12},
    "A100": {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12},
    "L40S": {"bf16": 362e12, "fp16": 362e12, "fp32": 91.6e12, "fp8": 733e12},
    "L4": {"bf16": 121e12, "fp16": 121e12, "fp32": 30.3e12, "fp8": 242e12},
    "RTX 5090": {"bf16": 209.5e12, "fp16": 209.5e12, "fp32": 104.8e12, "fp8": 419e12},
    "RTX 4090": {"bf16": 165.2e12, "fp16": 165.2e12, "fp32": 82.6e12, "fp8": 330.3e12},
    "RTX 3090": {"bf16": 71e12, "fp16": 71e12, "fp32": 35.6e12},
    "T4": {"fp16": 65e12, "fp32": 8.1e12},
}


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameter count by component; a tied head counts nothing of its own."""
    config = config.resolved()
    d, layers = config.d_model, config.num_layers
    kv = config.num_kv_heads * config.head_dim
    norms_a_block = 0 if config.norm == "none" else (1 if config.parallel_block else 2)
    norms = d * (layers * norms_a_block + (config.norm == "pre"))
    if config.qk_norm:
        norms += 2 * config.head_dim * layers
    matrices = 3 if config.ffn == "swiglu" else 2
    return {
        "embedding": config.vocab_size * d,
        "attention": layers * (2 * d * d + 2 * d * kv),
        "feed_forward": layers * matrices * d * config.ffn_hidden,
        "norms": norms,
        "head": 0 if config.tie_embeddings else config.vocab_size * d,
    }


def num_parameters(config: ModelConfig) -> int:
    return sum(parameters(config).values())


def forward_flops(config: ModelConfig, sequence_length: int, batch: int = 1) -> dict[str, int]:
    """FLOPs of one forward pass over `batch` sequences, by component (convention above)."""
    config = config.resolved()
    count, tokens = parameters(config), batch * sequence_length
    return {
        "attention_projections": 2 * count["attention"] * tokens,
        "attention_scores": 4 * config.num_layers * config.d_model * sequence_length * tokens,
        "feed_forward": 2 * count["feed_forward"] * tokens,
        "head": 2 * config.vocab_size * config.d_model * tokens,
    }


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """3 × forward, a token."""
    return 3 * sum(forward_flops(config, sequence_length).values()) / sequence_length


def device_peak(device, bf16: bool) -> tuple[float, str]:
    """(FLOP/s, where the figure is from): the data sheet's dense rate of a named GPU, else a measured matmul."""
    import torch

    dtype = "bf16" if bf16 else "fp32"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, rates in PEAK_FLOPS.items():
            if all(word in name.split() or word in name for word in known.split()) and dtype in rates:
                return rates[dtype], f"{known} dense {dtype}"
    rate = measured_matmul_flops(device, torch.bfloat16 if bf16 else torch.float32)
    return rate, f"measured {dtype} matmul"


def measured_matmul_flops(device, dtype, size: int | None = None, repeats: int = 6) -> float:
    """Best observed FLOP/s of a square matrix product, in about a quarter of a second on a laptop."""
    import torch

    size = size or (1024 if device.type == "cpu" else 8192)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
