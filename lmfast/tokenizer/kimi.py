"""Kimi's tokenizer: tiktoken.model, which has the ranks, and the special tokens in the tokenizer_config.json next to it.

In: the path of tiktoken.model. Out: `TokenizerParts`. The split pattern is not in these files but in tokenization_kimi.py,
which is not run; the config names it. There, the 256 ids after the ranks are special tokens, of which those without a name
are `<|reserved_token_ID|>`; texts are cut every 400,000 characters and runs without a space every 25,000, which only
changes ids at the cuts and is not done here. Rejects configs of other code. Source: moonshotai/Kimi-K2 tokenization_kimi.py.
"""

from pathlib import Path
from typing import Any

from lmfast.errors import UserError
from lmfast.tokenizer.gpt2_files import encode_utf8, read_bytes, read_json
from lmfast.tokenizer.parts import TokenizerParts
from lmfast.tokenizer.ranks import read_ranks

RANKS, CONFIG = "tiktoken.model", "tokenizer_config.json"
CODE = "tokenization_kimi.TikTokenTokenizer"
NUM_SPECIAL = 256


def read_kimi(path: Path, pattern: str | None = None) -> TokenizerParts:
    """The parts of a tiktoken.model; pattern: for the ranks of other models, which then have no special tokens."""
    parts = read_ranks(read_bytes(path), path)
    if pattern is None:
        names = _special_names(path.with_name(CONFIG), path)
        first = len(parts.vocab)
        for token in range(first, first + NUM_SPECIAL):
            text = names.get(str(token), f"<|reserved_token_{token}|>")
            if parts.special_tokens.setdefault(text, token) != token or token in parts.vocab:
                raise UserError(
                    f"{path}: special token {text!r} has id {token} and another one; are the ranks complete?"
                )
            parts.vocab[token] = encode_utf8(text, path)
        parts.pattern = "kimi"
    return parts


def _special_names(path: Path, ranks: Path) -> dict[str, str]:
    """{id in decimal: text} of the special tokens that have a name."""
    document = read_json(path) if path.exists() else {}
    config: dict[str, Any] = document if isinstance(document, dict) else {}
    mapped = config.get("auto_map")
    code = mapped.get("AutoTokenizer") if isinstance(mapped, dict) else None
    if CODE not in (code if isinstance(code, list) else [code]):
        raise UserError(
            f"{ranks}: does not contain the split pattern, and {CONFIG} does not name {CODE}; add --pattern (kimi, gpt2, "
            "cl100k, o200k or a regex)"
        )
    tokens = config.get("added_tokens_decoder")
    try:
        return {token: str(of["content"]) for token, of in (tokens or {}).items()}
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"{path}: added_tokens_decoder is not an object of tokens with content; is the file complete?"
        ) from None
