"""Exports a run for other programs. The formats are in files of their own; this one opens the run and the output.

In: a run folder or checkpoint. Out: a Hugging Face folder, or a GGUF file. On failure nothing is written.
"""

import os
from pathlib import Path
from typing import Literal, get_args

from lmfast.errors import UserError
from lmfast.files import failed_writes_name, new_file, new_folder
from lmfast.interop.gguf import Quantize, write_gguf
from lmfast.interop.hugging_face import MAX_SHARD_SIZE, Dtype, write_folder
from lmfast.training.loading import load_run


def export_run(
    folder: str | os.PathLike[str],
    format: Literal["hf", "gguf"] = "hf",
    *,
    output: str | os.PathLike[str],
    dtype: Dtype | None = None,
    max_shard_size: int | None = None,
    quantize: Quantize | None = None,
) -> Path:
    """Exports the newest checkpoint of a run folder, or a checkpoint folder; returns `output`, which must not exist.

    format "hf": a folder for Hugging Face's transformers. dtype: of its weights, fp32 by default. max_shard_size: limit of
    a file of weights in bytes, 5 GB by default. format "gguf": a file for llama.cpp. quantize: type of its matrices, f32 by
    default. Raises UserError if the format cannot represent the model or its tokenizer.
    """
    for name, value, choices in (
        ("format", format, ("hf", "gguf")),
        ("dtype", dtype, (None, *get_args(Dtype))),
        ("quantize", quantize, (None, *get_args(Quantize))),
    ):
        if value not in choices:
            known = ", ".join(choice for choice in choices if choice)
            raise UserError(f"{name} is {value!r}; it must be one of {known}")
    if max_shard_size is not None and max_shard_size < 1:
        raise UserError(f"max_shard_size is {max_shard_size}; it must be at least 1 byte")
    others = {"quantize": quantize} if format == "hf" else {"dtype": dtype, "max_shard_size": max_shard_size}
    for name, value in others.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} is not an option of format {format}; remove it")
    with (new_folder if format == "hf" else new_file)(Path(output), folder) as temporary:
        model, tokenizer, _ = load_run(folder, mapped=True)
        with failed_writes_name(output):
            try:
                if format == "hf":
                    write_folder(
                        temporary, model, tokenizer, dtype or "fp32", max_shard_size or MAX_SHARD_SIZE
                    )
                else:
                    write_gguf(temporary, model, tokenizer, quantize or "f32")
            except UserError as error:
                raise UserError(f"{folder}: {error}") from None
    return Path(output)
