"""`lmfast report --tokens RUN FILE`: opens the run and the text, and writes the page."""

import sys
from pathlib import Path

import numpy as np

from lmfast.cli.token_page import token_page
from lmfast.errors import UserError
from lmfast.evaluation.token_losses import token_losses
from lmfast.files import atomic_write, check_not_input, check_writable
from lmfast.inference.torch_scoring import make_scorer
from lmfast.model.device import pick_device
from lmfast.tokenizer.file_kinds import HEAD, check_is_text, file_kind, text_remarks
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.training.checkpoint import find_checkpoint
from lmfast.training.evaluation import count_bytes
from lmfast.training.loading import load_checkpoint

READ_BYTES = 8 << 20
MOST_TOKENS = 200_000


def report_tokens(run: Path, file: Path, output: Path) -> str:
    """Writes the page; returns a line about the loss. Raises UserError if the run or the text cannot be used."""
    check_writable(output)
    check_not_input(output, file)
    file_kind(file)  # rejects names of files that are not text
    checkpoint = find_checkpoint(run)
    with open(file, "rb") as source:
        data = source.read(READ_BYTES + 1)
    if not data:
        raise UserError(f"{file}: is empty; give a text to report on")
    check_is_text(file, data[:HEAD])
    for remark in text_remarks(file, data[:HEAD]):
        print(remark, file=sys.stderr)
    device = pick_device("auto")
    model, tokenizer, config = load_checkpoint(checkpoint, device)
    if tokenizer is None:
        raise UserError(
            f"{checkpoint.run}: the run has no tokenizer and cannot read text; give one that has it"
        )
    ids = tokenizer.encode(data[:READ_BYTES])
    whole = len(data) <= READ_BYTES and len(ids) <= MOST_TOKENS
    ids = ids[:MOST_TOKENS]
    begin = tokenizer.special_tokens.get(DOCUMENT_END)
    if begin is None and len(ids) < 2:
        raise UserError(
            f"{file}: has one token, and the tokenizer no {DOCUMENT_END} to predict it from; give more"
        )
    found = token_losses(make_scorer(model), ids, begin, config.context_length)
    mean = float(found.losses.mean())
    part = "" if whole else "the first "
    line = f"{checkpoint.path} on {part}{len(found.ids):,} tokens of {file}: {mean:.4f} nats per token"
    num_bytes = count_bytes(found.ids, tokenizer)
    if num_bytes:
        line += f", {found.losses.sum() / np.log(2) / num_bytes:.4f} bits per byte"
    with atomic_write(output) as temporary:
        page = token_page(tokenizer, f"{run.name}: {file.name}", line, found)
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return line
