"""A tokenizer as the tokenizer.ggml entries of a GGUF file.

In: a Tokenizer. Out: entries by name, without the prefix. Rejects (UserError), by name, what llama.cpp would tokenize or
stop differently: split patterns and rules for text that it lacks, vocabularies without <|endoftext|>.
Source: llama.cpp, src/llama-vocab.cpp and src/unicode.cpp (October 2026).
"""

from typing import Any

from lmfast.data.chat import BOS, END, has_chat_tokens
from lmfast.errors import UserError
from lmfast.interop.chat_template import chat_template
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.byte_characters import spell

PRE_TOKENIZERS = {("gpt2", False): "gpt-2", ("cl100k", False): "dbrx", ("cl100k", True): "llama-bpe"}
"""(pattern, ignore_merges) → llama.cpp's name. dbrx and llama-bpe split alike, and llama-bpe implies ignore_merges. Its
gpt-4o only approximates o200k: it distinguishes the case of ASCII letters only."""

NORMAL, CONTROL, UNUSED = 1, 3, 5  # gguf.TokenType. Bytes are normal: BYTE means a token spelt <0x0A>


def vocabulary_entries(tokenizer: Tokenizer) -> dict[str, Any]:
    """The entries of a tokenizer. Their list of tokens has `tokenizer.vocab_size` items."""
    kind = tokenizer.pattern.name, tokenizer.ignore_merges
    if kind not in PRE_TOKENIZERS:
        names = sorted({name for name, _ in PRE_TOKENIZERS})
        pattern = f"pattern {kind[0] if kind[0] != 'custom' else repr(tokenizer.pattern.regex)}"
        raise UserError(
            f"tokenizer: llama.cpp has no split equal to {pattern}{' with ignore_merges' * kind[1]}; "
            f"only tokenizers with pattern {' or '.join(names)} can be exported"
        )
    if BOS not in tokenizer.special_tokens:
        raise UserError(
            f"tokenizer: has no {BOS}, and llama.cpp would end texts at id 11 instead; add it to the tokenizer"
        )
    _reject_rules(tokenizer)
    end = tokenizer.special_tokens[BOS]
    tokens, types = _tokens(tokenizer)
    entries: dict[str, Any] = {
        "model": "gpt2",
        "pre": PRE_TOKENIZERS[kind],
        "tokens": tokens,
        "token_type": types,
        "merges": [f"{spell(a)} {spell(b)}" for a, b in tokenizer.merges],
        "bos_token_id": end,
        "eos_token_id": end,
        "add_bos_token": False,
    }
    if UNUSED in types:
        entries["suppress_tokens"] = [i for i, type_ in enumerate(types) if type_ == UNUSED]
    if has_chat_tokens(tokenizer):
        entries["eot_token_id"] = tokenizer.special_tokens[END]
        entries["chat_template"] = chat_template(tokenizer)
    return entries


def _reject_rules(tokenizer: Tokenizer) -> None:
    """Rejects what llama.cpp does not do to text: NFC, a prefix space, special tokens that take the text next to them."""
    rules = tokenizer.rules
    found = ["NFC"] * rules.nfc + ["a prefix space"] * rules.prefix_space
    for text, of in rules.flags.items():
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        found += [f"{flag} of added token {text!r}" for flag in flags if getattr(of, flag)]
    if found:
        raise UserError(
            f"tokenizer: llama.cpp does not do {found[0]}, so its ids would differ; such a run cannot be exported"
        )


def _tokens(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """The texts and types of the ids 0 … vocab_size − 1."""
    special = {token: text for text, token in tokenizer.special_tokens.items()}
    made = {a + b for a, b in tokenizer.merges}
    tokens: list[str] = []
    types: list[int] = []
    for token in range(tokenizer.vocab_size):
        if token in special:
            text, plain = special[token], tokenizer.vocab[token]
            if (len(plain) == 1 or plain in made) and spell(plain) != text:
                raise UserError(
                    f"tokenizer: special token {text!r} is also an ordinary token, which llama.cpp spells differently; "
                    "choose another special token"
                )
            tokens.append(text)
            types.append(CONTROL)
        elif token in tokenizer.vocab:
            tokens.append(spell(tokenizer.vocab[token]))
            types.append(NORMAL)
        else:
            tokens.append(f"[UNUSED_{token}]")
            types.append(UNUSED)
    ids: dict[str, int] = {}
    for token, text in enumerate(tokens):
        if ids.setdefault(text, token) != token:
            raise UserError(
                f"tokenizer: ids {ids[text]} and {token} would both be {text!r}, and llama.cpp allows each text once; "
                "choose another special token"
            )
    return tokens, types
