"""Random models and run folders on which a swapped tensor, a missing bias or a norm left out shows."""

from dataclasses import replace
from pathlib import Path

import torch

from lmfast import ModelConfig, Tokenizer, TransformerLM
from lmfast.settings import TrainSettings, write_yaml
from lmfast.tokenizer.text_rules import TextRules
from lmfast.training.checkpoint import save_checkpoint

SMALL = ModelConfig(270, 64, d_model=32, num_layers=3, num_heads=4, num_kv_heads=2, d_ff=48)
BOUND = 1e-5
"""largest difference of logits in fp32, relative to the largest logit"""


def tokenizer(*special_tokens: str) -> Tokenizer:
    """Bytes, two merges and special tokens: <|endoftext|> is 258."""
    merges = [(b"a", b"b"), (b" ", b"t")]
    vocab = {**{i: bytes([i]) for i in range(256)}, 256: b"ab", 257: b" t"}
    return Tokenizer(vocab, merges, ["<|endoftext|>", *special_tokens])


@torch.no_grad()
def perturb(model: torch.nn.Module) -> None:
    """Moves norms away from 1 and biases away from 0, and makes two channels of the residual stream outliers."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            weight.normal_()
        elif "embed" in name:
            weight[:, :2] *= 10


def random_model(config: ModelConfig) -> TransformerLM:
    torch.manual_seed(0)
    model = TransformerLM(config).eval()
    perturb(model)
    return model


def tokenizer_for(qkv_bias: bool) -> Tokenizer:
    """`tokenizer`, or for Qwen2 models one that splits as transformers does for these."""
    plain = tokenizer()
    if not qkv_bias:
        return plain
    return Tokenizer(plain.vocab, plain.merges, plain.special_tokens, "qwen2", rules=TextRules(nfc=True))


def make_run(folder: Path, model: TransformerLM, own_tokenizer: Tokenizer | None) -> Path:
    """A run folder that contains this model."""
    folder.mkdir()
    write_yaml(folder / "config.yaml", replace(TrainSettings(), model=model.config))
    if own_tokenizer is not None:
        own_tokenizer.save(folder / "tokenizer")
    state = {"step": 1, "tokens": 0, "seconds": 0.0, "best_val_loss": None, "best_step": None}
    weights = {name: weight.detach() for name, weight in model.named_weights().items()}
    save_checkpoint(folder / "checkpoints", weights, {}, state)
    return folder


def relative_difference(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    return float((theirs - ours).abs().max() / ours.abs().max())
