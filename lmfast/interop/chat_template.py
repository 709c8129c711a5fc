"""The chat format (lmfast/data/chat.py) as a Jinja template, for transformers, llama.cpp and others.

Tokenized with special tokens recognised, the rendered text has the ids of `render`, or with `add_generation_prompt` those
of `render_prompt`; what `{% generation %}` encloses carries loss. A message that spells a special token is plain text to
`render`, but not to these programs, so the template rejects it by name, as it does roles and contents that are not text.
Source: https://huggingface.co/docs/transformers/chat_templating_writing
"""

from collections.abc import Iterable, Mapping

from lmfast.data.chat import BOS, CHAT_SPECIALS, END, ROLE_TOKENS, has_chat_tokens
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer

_BODY = """\
{{- bos -}}
{%- for message in messages -%}
{%- set role = message['role'] -%}
{%- set content = message['content'] -%}
{%- if role not in roles -%}
{{- raise_exception('unknown role ' ~ role ~ '; the roles are ' ~ roles.keys() | join(', ')) -}}
{%- endif -%}
{%- if content is not string -%}
{{- raise_exception('a message from the ' ~ role ~ ' is not text') -}}
{%- endif -%}
{%- for text in special_tokens -%}
{%- if text in content -%}
{{- raise_exception('a message from the ' ~ role ~ ' contains the special token ' ~ text) -}}
{%- endif -%}
{%- endfor -%}
{{- roles[role] -}}
{%- if role == 'assistant' -%}
{%- generation -%}
{{- content ~ end -}}
{%- endgeneration -%}
{%- else -%}
{{- content ~ end -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- roles['assistant'] -}}
{%- endif -%}
"""


def chat_template(tokenizer: Tokenizer) -> str | None:
    """The template of a tokenizer with chat tokens, None without.

    Raises UserError if another special token overlaps with one of the template's, so that programs may read either.
    """
    if not has_chat_tokens(tokenizer):
        return None
    own = (BOS, *CHAT_SPECIALS)
    for text in tokenizer.special_tokens:
        for token in own:
            if text not in own and (token in text or _joined(text, token) or _joined(token, text)):
                raise UserError(
                    f"special token {text!r} overlaps with {token}, so a chat template would be ambiguous; rename it"
                )
    values = {"bos": BOS, "end": END, "roles": ROLE_TOKENS, "special_tokens": tokenizer.special_tokens.keys()}
    return "".join(f"{{%- set {name} = {_literal(value)} -%}}\n" for name, value in values.items()) + _BODY


def _joined(first: str, second: str) -> bool:
    """Whether the end of one text is the start of the other."""
    return any(first.endswith(second[:length]) for length in range(1, len(second)))


def _literal(value: str | Mapping[str, str] | Iterable[str]) -> str:
    """A value as a Jinja literal."""
    if isinstance(value, str):
        escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"}
        return "'" + value.translate(str.maketrans(escapes)) + "'"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(text)}" for name, text in value.items()) + "}"
    return "[" + ", ".join(map(_literal, value)) + "]"
