"""Exports a run for other programs. The formats are in files of their own; this one opens the run and the output.

In: a run folder or checkpoint. Out: a Hugging Face folder. On failure nothing is written.
"""

import os
from pathlib import Path
from typing import Literal

from lmfast.errors import UserError
from lmfast.files import new_folder
from lmfast.interop.hugging_face import MAX_SHARD_SIZE, Dtype, write_folder
from lmfast.training.loading import load_run


def export_run(
    folder: str | os.PathLike[str],
    format: Literal["hf"] = "hf",
    *,
    output: str | os.PathLike[str],
    dtype: Dtype = "fp32",
    max_shard_size: int = MAX_SHARD_SIZE,
) -> Path:
    """Exports the newest checkpoint of a run folder, or a checkpoint folder; returns `output`, which must not exist.

    format: "hf", a folder for Hugging Face's transformers. dtype: of its weights. max_shard_size: limit of a file of
    weights in bytes. Raises UserError if the format cannot represent the model or its tokenizer.
    """
    with new_folder(Path(output)) as temporary:
        model, tokenizer, _ = load_run(folder)
        try:
            write_folder(temporary, model, tokenizer, dtype, max_shard_size)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
    return Path(output)
