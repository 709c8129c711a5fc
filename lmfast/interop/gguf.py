"""Writes a run as a GGUF file, which llama.cpp and the programs built on it load.

In: a TransformerLM in fp32 and its tokenizer. Out: one file with architecture llama, or qwen3 for models with qk_norm.
llama.cpp rotates adjacent dimensions (2i, 2i + 1) of llama's queries and keys, so their rows are permuted; qwen3's pairs
are (i, i + head_dim / 2), as here. Rejects (UserError) settings that these architectures lack, weights beyond the range of
float16, and tokenizers that llama.cpp lacks (gguf_vocabulary.py). Source: llama.cpp's src/models and gguf-py.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmfast.errors import UserError
from lmfast.interop.gguf_vocabulary import vocabulary_entries
from lmfast.interop.hugging_face_config import reject_unsupported
from lmfast.model.config import ResolvedConfig
from lmfast.model.rope import rope_frequencies
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.bpe import Tokenizer

Quantize = Literal["f32", "f16", "bf16", "q8_0"]


def write_gguf(path: Path, model: TransformerLM, tokenizer: Tokenizer | None, quantize: Quantize) -> None:
    """Writes a model and its tokenizer to `path`.

    quantize: type of the matrices; norms and biases are float32. q8_0 has one float16 scale per 32 numbers of a row, and
    matrices whose rows are not a multiple of 32 long are float16. The vocabulary ends with the tokenizer's last id.
    """
    try:
        import gguf
    except ImportError:
        raise UserError(
            "GGUF files need the package gguf, which is not installed; run `pip install gguf`"
        ) from None
    config = model.config
    _reject_unsupported(config)
    if tokenizer is None:
        raise UserError(
            "has no tokenizer, which a GGUF file must contain; import or train the model with --tokenizer"
        )
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model only {config.vocab_size}; use the tokenizer "
            "that the model was trained with"
        )
    # No general.name: llama.cpp strips spaces after special tokens if it contains phi3.
    writer = gguf.GGUFWriter(path, "qwen3" if config.qk_norm else "llama")
    for name, value in vocabulary_entries(tokenizer).items():
        _add(
            writer, f"tokenizer.ggml.{name}" if name != "chat_template" else "tokenizer.chat_template", value
        )
    _add_shape(writer, config, tokenizer.vocab_size)
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "bf16": gguf.LlamaFileType.MOSTLY_BF16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[quantize]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, weights in _tensors(model, tokenizer.vocab_size):
        kind = _type(weights, quantize)
        if kind == "f16" and np.abs(weights).max() > np.finfo(np.float16).max:
            raise UserError(
                f"{name} contains values beyond the range of float16; export it with --quantize bf16"
            )
        dtype = gguf.GGMLQuantizationType[kind.upper()]
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(weights), dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _reject_unsupported(config: ResolvedConfig) -> None:
    reject_unsupported(config, "llama.cpp's llama and qwen3 do not support")
    if config.qk_norm and config.rope_factor != 1:
        raise UserError(
            f"rope_factor is {config.rope_factor}, which llama.cpp's qwen3 does not support; only models with rope_factor 1 "
            "or without qk_norm can be exported"
        )
    if any(
        window is not None and window < config.context_length
        for window in map(config.layer_window, range(config.num_layers))
    ):
        raise UserError(
            f"sliding_window is {config.sliding_window}, which llama.cpp's llama and qwen3 do not support; only models "
            "without windows can be exported"
        )


def _add(writer: Any, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _add_shape(writer: Any, config: ResolvedConfig, vocab_size: int) -> None:
    writer.add_vocab_size(vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _tensors(model: TransformerLM, vocab_size: int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of every tensor of the file."""
    config = model.config
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_weights().items()}
    if config.rope_factor != 1:  # llama.cpp divides its frequencies by this
        plain = rope_frequencies(replace(config, rope_factor=1.0))
        yield "rope_freqs.weight", (plain / rope_frequencies(config)).astype(np.float32)
    yield "token_embd.weight", weights["embedding.weight"][:vocab_size]
    kv = config.num_kv_heads * config.head_dim
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"blk.{i}"
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            q, k, v = np.split(weights[f"{ours}.attention.qkv.{kind}"], [-2 * kv, -kv])
            if not config.qk_norm:
                q, k = permuted(q, config.num_heads), permuted(k, config.num_kv_heads)
            yield f"{theirs}.attn_q.{kind}", q
            yield f"{theirs}.attn_k.{kind}", k
            yield f"{theirs}.attn_v.{kind}", v
        if config.qk_norm:
            yield f"{theirs}.attn_q_norm.weight", weights[f"{ours}.attention.q_norm.weight"]
            yield f"{theirs}.attn_k_norm.weight", weights[f"{ours}.attention.k_norm.weight"]
        gate, up = np.split(weights[f"{ours}.feed_forward.up.weight"], 2)
        yield f"{theirs}.attn_norm.weight", weights[f"{ours}.attention_norm.weight"]
        yield f"{theirs}.attn_output.weight", weights[f"{ours}.attention.out.weight"]
        yield f"{theirs}.ffn_norm.weight", weights[f"{ours}.ffn_norm.weight"]
        yield f"{theirs}.ffn_gate.weight", gate
        yield f"{theirs}.ffn_up.weight", up
        yield f"{theirs}.ffn_down.weight", weights[f"{ours}.feed_forward.down.weight"]
    yield "output_norm.weight", weights["final_norm.weight"]
    if not config.tie_embeddings:
        yield "output.weight", weights["head.weight"][:vocab_size]


def permuted(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows (heads · head_dim, …) with each head's i and i + head_dim / 2 moved to 2i and 2i + 1."""
    halves = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _type(weights: np.ndarray, quantize: Quantize) -> Quantize:
    if weights.ndim == 1:
        return "f32"
    return "f16" if quantize == "q8_0" and weights.shape[1] % 32 else quantize
