"""Special tokens: which texts are valid, and which ids they get in a vocabulary that does not contain them.

The vocabularies that OpenAI and Meta publish leave ids unused on purpose: cl100k_base ends at 100255 and its
<|endoftext|> is 100257. `published_ids` finds these by the sha256 of the ranks; in other vocabularies new ids follow the
highest one. Sources: tiktoken_ext/openai_public.py, llama_models/llama3/api/tokenizer.py.
"""

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from lmfast.errors import UserError

logger = logging.getLogger(__name__)

DOCUMENT_END = "<|endoftext|>"
"""ends every document, in text and in token files"""

SpecialTokensArgument = Iterable[str] | Mapping[str, int | None]

_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_PUBLISHED = {
    # gpt2, r50k_base
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": {"<|endoftext|>": 50256},
    # p50k_base, p50k_edit
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": {
        "<|endoftext|>": 50256,
        **{text: 50281 + i for i, text in enumerate(_FIM)},
    },
    # cl100k_base
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": {
        "<|endoftext|>": 100257,
        **{text: 100258 + i for i, text in enumerate(_FIM)},
        "<|endofprompt|>": 100276,
    },
    # o200k_base, o200k_harmony
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": {
        "<|startoftext|>": 199998,
        "<|endoftext|>": 199999,
        "<|return|>": 200002,
        "<|constrain|>": 200003,
        "<|channel|>": 200005,
        "<|start|>": 200006,
        "<|end|>": 200007,
        "<|message|>": 200008,
        "<|call|>": 200012,
        "<|endofprompt|>": 200018,
    },
    # Llama 3
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|finetune_right_pad_id|>": 128004,
        "<|step_id|>": 128005,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eom_id|>": 128008,
        "<|eot_id|>": 128009,
        "<|python_tag|>": 128010,
        "<|image|>": 128011,
    },
}


def published_ids(ranks_sha256: str) -> dict[str, int]:
    """{special token: id} for the vocabulary whose .tiktoken file, in order of rank, has this sha256; empty if unknown."""
    return _PUBLISHED.get(ranks_sha256, {})


def check_special_tokens(special_tokens: SpecialTokensArgument | None) -> dict[str, int | None]:
    """{text: id, or None if it is still to be chosen}; UserError for an invalid text or id."""
    if isinstance(special_tokens, str | bytes):
        raise UserError(
            f"special_tokens={special_tokens!r}: a single string would be read letter by letter; give a list, "
            f"[{special_tokens!r}]"
        )
    given = (
        dict(special_tokens) if isinstance(special_tokens, Mapping) else dict.fromkeys(special_tokens or ())
    )
    for text, token in given.items():
        if not isinstance(text, str):
            raise UserError(f"special token {text!r}: is not a str; give its text")
        if not text:
            raise UserError("special token '': an empty token matches everywhere; remove it")
        if token is not None and (isinstance(token, bool) or not hasattr(token, "__index__")):
            raise UserError(f"special token {text!r}: id {token!r} is not an integer")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"special token {text!r}: contains a lone surrogate (half a character), which is not valid text; "
                "remove it"
            ) from None
    return given


def place_special_tokens(
    wanted: Mapping[str, int | None],
    known: Mapping[str, int],
    vocab: Iterable[int],
    published: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """The ids of the `known` and the `wanted` special tokens in a vocabulary with these ids.

    A text without an id gets the one it has in `known`, else its published one, else the next one after all of these.
    If that leaves lower ids unused, a warning is logged."""
    placed, chosen = dict(known), {}
    for text, token in wanted.items():
        if token is None:
            if text in placed:
                continue
            token = published.get(text, max([*vocab, *placed.values(), *published.values()], default=-1) + 1)
            chosen[text] = token
        elif known.get(text, token) != token:
            raise UserError(
                f"special token {text!r}: has id {known[text]} in this file, not {token}; leave the id out"
            )
        placed[text] = int(token)
    if chosen:
        used = {*vocab, *placed.values()}
        free = [token for token in range(max(used)) if token not in used]
        if free:
            logger.warning(
                "special tokens: %s; %d lower ids stay unused, the first is %d; to choose an id, write TOKEN=ID",
                ", ".join(f"{text!r} gets id {token}" for text, token in chosen.items()),
                len(free),
                free[0],
            )
    return placed
