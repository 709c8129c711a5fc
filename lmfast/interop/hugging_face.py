"""Writes a run as a Hugging Face folder, which transformers loads without our code.

In: a TransformerLM in fp32 and its tokenizer. Out: config.json, generation_config.json, model.safetensors (or shards and
their index) and, for a run with a tokenizer, tokenizer.json and tokenizer_config.json. Rejects (UserError) settings that
its classes lack, weights beyond the range of fp16, and split patterns that tokenizer.json cannot represent.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lmfast.data.chat import ending_ids
from lmfast.errors import UserError
from lmfast.interop.chat_template import chat_template
from lmfast.interop.hugging_face_config import to_config_json
from lmfast.interop.hugging_face_tensors import tensor_parts
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.training.checkpoint import save_tensors

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_SHARD_SIZE = 5_000_000_000
"""default limit of one file of weights in bytes"""


def write_folder(
    folder: Path, model: TransformerLM, tokenizer: Tokenizer | None, dtype: Dtype, max_shard_size: int
) -> None:
    """Writes a model and its tokenizer into an existing, empty folder. max_shard_size: limit of a file in bytes."""
    kind = DTYPES[dtype]
    config = to_config_json(model.config, str(kind).removeprefix("torch."))
    ids = _special_ids(model, tokenizer)
    if tokenizer is not None:
        if config["model_type"] == "qwen2" and (tokenizer.pattern.name, tokenizer.rules.nfc) != (
            "qwen2",
            True,
        ):
            raise UserError(
                "qkv_bias is true, and for such models transformers splits text with Qwen2's pattern and NFC whatever "
                "the file says, so its ids would differ; train with a Qwen2 tokenizer, or without qkv_bias"
            )
        tokenizer.save(folder / "tokenizer.json")
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(model, tokenizer, ids))
    _write_json(folder / "config.json", config | ids)
    unused = {} if model.unused_ids is None else {"suppress_tokens": model.unused_ids.tolist()}
    _write_json(folder / "generation_config.json", ids | unused)
    _write_weights(folder, split_weights(model), kind, max_shard_size)


def split_weights(model: TransformerLM) -> dict[str, Tensor]:
    """Views of the weights of a model by their names in a Hugging Face folder."""
    weights = model.named_weights()
    return {
        name: part.detach()
        for ours, parts in tensor_parts(model.config).items()
        for (name, _), part in zip(parts, weights[ours].split([rows for _, rows in parts]), strict=True)
    }


def _write_weights(folder: Path, weights: dict[str, Tensor], dtype: torch.dtype, max_shard_size: int) -> None:
    shards = list(
        _shards({name: tensor.numel() * dtype.itemsize for name, tensor in weights.items()}, max_shard_size)
    )
    files: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        save_tensors(
            {name: _cast(name, weights[name], dtype) for name in names}, folder / file, {"format": "pt"}
        )
        files |= dict.fromkeys(names, file)
    if len(shards) > 1:
        size = sum(tensor.numel() for tensor in weights.values()) * dtype.itemsize
        index = {"metadata": {"total_size": size}, "weight_map": files}
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(sizes: dict[str, int], limit: int) -> Iterator[list[str]]:
    """The names in order, in groups of at most `limit` bytes; a larger tensor is a group of its own."""
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        if names and total + size > limit:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    yield names


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.to(dtype).contiguous()
    if dtype == torch.float16 and not all(end.isfinite() for end in cast.aminmax()):
        raise UserError(f"{name} contains values beyond the range of fp16; export it in bf16 or fp32")
    return cast


def _special_ids(model: TransformerLM, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The ids that begin and end texts; null for a run without a tokenizer."""
    begin, ends = None, []
    if tokenizer is not None:
        begin, ends = tokenizer.special_tokens.get(DOCUMENT_END), sorted(ending_ids(tokenizer))
    return {
        "bos_token_id": begin,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": begin,
    }


def _tokenizer_config(model: TransformerLM, tokenizer: Tokenizer, ids: dict[str, Any]) -> dict[str, Any]:
    texts: dict[int | None, str] = {token: text for text, token in tokenizer.special_tokens.items()}
    template = chat_template(tokenizer)
    begin, last = ids["bos_token_id"], max(ending_ids(tokenizer), default=None)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.context_length,
        "clean_up_tokenization_spaces": False,
        "bos_token": texts.get(begin),
        "eos_token": texts.get(last),  # of a chat model <|end|>, which ends its answers
        "pad_token": texts.get(begin),
        "additional_special_tokens": list(tokenizer.special_tokens),
    } | ({} if template is None else {"chat_template": template})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
