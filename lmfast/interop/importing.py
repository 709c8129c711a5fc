"""Imports a Hugging Face folder as a run, which generate, evaluate, sft, dpo and export accept.

In: a folder with config.json, safetensors files and a tokenizer. Out: a run folder with one checkpoint in fp32, of step 0.
Rejects (UserError) what lmfast lacks, and weights that do not fit or are not finite; then nothing is written. Peak memory
is one copy of the weights in fp32; the files are mapped.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmfast.errors import UserError
from lmfast.files import failed_writes_name, new_folder
from lmfast.interop.hugging_face_config import from_config_json
from lmfast.interop.hugging_face_tensors import tensor_parts
from lmfast.interop.safetensors_folder import SafetensorsFolder
from lmfast.model.config import ResolvedConfig
from lmfast.model.weight_shapes import weight_shapes
from lmfast.settings import TrainSettings, write_yaml
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import save_checkpoint
from lmfast.training.run_folder import save_tokenizer

DTYPES = ("F32", "BF16", "F16")
EMBEDDING, TIED_HEAD = "model.embed_tokens.weight", "lm_head.weight"
COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")
"""tensors of old folders that are computed from the config"""


def import_model(
    folder: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    context_length: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Path:
    """Imports a Llama, Mistral, Qwen2, Qwen3 or SmolLM folder as a run; returns `output`, which must not exist.

    context_length: in tokens, at most the model's, its default; decoders allocate their cache for it. tokenizer: path of
    one to use instead of the folder's, or "none" for a run without.
    """
    folder = Path(folder)
    with new_folder(Path(output), folder) as run:
        config = from_config_json(_read_config(folder), folder / "config.json", context_length)
        own = (
            None
            if tokenizer == "none"
            else _load_tokenizer(folder if tokenizer is None else Path(tokenizer), config)
        )
        weights = _read_weights(folder, config)
        (run / "run.json").write_text(json.dumps({"imported_from": str(folder.resolve())}), encoding="utf-8")
        (run / "metrics.jsonl").touch()
        write_yaml(run / "config.yaml", replace(TrainSettings(), model=config))
        if own is not None:
            save_tokenizer(own, run)
        state = {"step": 0, "tokens": 0, "seconds": 0.0, "best_val_loss": None, "best_step": None}
        with failed_writes_name(output):
            save_checkpoint(run / "checkpoints", weights, {}, state)
    return Path(output)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UserError(
            f"{folder}: {what}; give a folder in Hugging Face's format, as `hf download REPO --local-dir FOLDER` makes it"
        )
    if not path.is_file():
        raise UserError(f"{folder}: contains no config.json; give a folder in Hugging Face's format")
    try:
        document: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UserError(f"{path}: is not a JSON object; download it again")
    return document


def _load_tokenizer(path: Path, config: ResolvedConfig) -> Tokenizer:
    try:
        tokenizer = Tokenizer.load(path)
    except UserError as error:
        raise UserError(f"{error}; or give another with --tokenizer, or --tokenizer none") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, but the model's vocab_size is "
            f"{config.vocab_size}; give the model's own with --tokenizer"
        )
    return tokenizer


def _read_weights(folder: Path, config: ResolvedConfig) -> dict[str, Tensor]:
    """Our tensors in fp32. Shapes and dtypes are checked before any tensor is read."""
    shapes, parts = weight_shapes(config), tensor_parts(config)
    expected = {name: (rows, *shapes[ours][1:]) for ours, named in parts.items() for name, rows in named}
    with SafetensorsFolder(folder) as source:
        _check_tensors(source, expected, config)
        found: dict[str, Tensor] = {}
        for ours, named in parts.items():
            found[ours] = fused = torch.empty(shapes[ours])
            for (name, _), part in zip(named, torch.split(fused, [rows for _, rows in named]), strict=True):
                part.copy_(source.tensor(name))
                if not all(end.isfinite() for end in part.aminmax()):
                    raise UserError(
                        f"{source.path(name)}: {name} contains values that are not finite; download it again"
                    )
        return found


def _check_tensors(
    source: SafetensorsFolder, expected: dict[str, tuple[int, ...]], config: ResolvedConfig
) -> None:
    """Raises UserError naming the first tensor that is missing or unknown, or has another shape or dtype."""
    for name in expected:
        if name not in source.shapes:
            raise UserError(
                f"{source.folder}: lacks {name}, which its config.json implies; download it again"
            )
    for name, shape in source.shapes.items():
        path = source.path(name)
        if name == TIED_HEAD and config.tie_embeddings:  # some files hold it twice
            if not _same_values(source.tensor(name), source.tensor(EMBEDDING)):
                raise UserError(
                    f"{path}: {name} ({source.dtype(name)}) differs from {EMBEDDING} ({source.dtype(EMBEDDING)}), but "
                    "config.json sets tie_word_embeddings; set it to false to import both"
                )
        elif name not in expected:
            if not COMPUTED.search(name):
                raise UserError(f"{path}: {name} is not a tensor of the architecture that config.json names")
        elif shape != expected[name]:
            raise UserError(
                f"{path}: {name} is {shape}, but config.json implies {expected[name]}; do they belong together?"
            )
        elif source.dtype(name) not in DTYPES:
            raise UserError(
                f"{path}: {name} is stored as {source.dtype(name)}; only {', '.join(DTYPES)} are supported"
            )


def _same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two matrices, which may have different dtypes, are equal in fp32."""
    rows = 4096  # at a time, for memory
    return a.shape == b.shape and all(
        torch.equal(a[i : i + rows].float(), b[i : i + rows].float()) for i in range(0, len(a), rows)
    )
