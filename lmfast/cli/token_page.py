"""A self-contained HTML page of a text whose tokens are coloured by their loss, for `lmfast report --tokens`.

Below the text: the hardest tokens, the ids with the most loss, and the loss by position and by frequency.
"""

import html
import json
import math
from collections.abc import Sequence

from lmfast.cli.token_characters import Characters, characters
from lmfast.evaluation.token_losses import (
    Bucket,
    TokenLosses,
    by_frequency,
    by_id,
    by_position,
    hardest,
)
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.html_page import scrolling

SHOWN = 20_000  # most coloured tokens
ROWS = 20  # of the tables of tokens
SHADES = 10
DARKEST = 10.0  # nats, from which on a token has the last shade
LEAST_PERCENT = 0.01  # smaller probabilities are not written out
BEFORE = 12  # tokens shown before a hard one

STYLE = """
.scroll { overflow-x: auto; }
:root { --ground: #fff; --ink: #1c1e21; --faint: #5f6672; --line: #e3e5e8; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181c; --ink: #e8eaed; --faint: #9aa0a8; --line: #33373d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 1000px;
  margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { color: var(--faint); margin: .3rem 0; }
pre { font: 15px/1.8 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
b { font-weight: inherit; color: var(--ink); border-radius: 3px; padding: .1em 0; }
b.s { text-decoration: underline dotted; text-underline-offset: .2em; }
b:hover { outline: 2px solid var(--ink); }
i { font-style: normal; color: var(--faint); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; }
th.t, td.t { text-align: left; font-family: ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; }
""" + "".join(f".l{n} {{ background: rgba(217, 72, 15, {n / SHADES:.1f}); }}\n" for n in range(1, SHADES))


def token_page(tokenizer: Tokenizer, title: str, about: str, found: TokenLosses) -> str:
    """The page. about: a sentence on the model and the text."""
    ids, losses = found.ids.tolist(), found.losses.tolist()
    texts = characters([tokenizer.token_bytes(token) for token in ids])
    shown = "".join(
        f'<b class="l{shade(loss)}{" s" if text.shared else ""}" title="{_facts(loss, text)}">{_text(text)}</b>'
        for text, loss in zip(texts[:SHOWN], losses[:SHOWN], strict=True)
    )
    rest = len(ids) - SHOWN
    more = f"<p>… {rest:,} more tokens, which the tables include</p>" if rest > 0 else ""
    hard = [
        (
            _quoted(tokenizer, ids[i], texts[i].shared),
            "".join(_text(text) for text in texts[max(0, i - BEFORE) : i]),
            f"{losses[i]:.2f}",
            _probability(losses[i]),
        )
        for i in hardest(found, ROWS)
    ]
    costly = [(_quoted(tokenizer, token), *_cells(bucket)) for token, bucket in by_id(found, ROWS)]
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>{_legend()}<pre>{shown}</pre>{more}",
        "<h2>Hardest tokens</h2>",
        _table(("token", "after", "nats", "probability"), hard, texts=2),
        "<h2>Ids with the most loss</h2>",
        _table(("id", "tokens", "nats per token", "share of the loss"), costly),
        "<h2>By position in the context</h2>",
        _bucket_table("tokens before", by_position(found)),
        "<h2>By frequency in this text</h2>",
        _bucket_table("occurrences of the id", by_frequency(found)),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def shade(loss: float) -> int:
    """0 for no loss to SHADES − 1."""
    return min(SHADES - 1, int(loss / DARKEST * SHADES)) if loss > 0 else 0


def _legend() -> str:
    steps = "".join(f'<b class="l{n}"> {n * DARKEST / SHADES:g} </b>' for n in range(SHADES))
    about = "Loss of each token, given those before it, in nats"
    return (
        f"<p>{about}: {steps} and more. Hover over a token for its probability. Dotted: tokens that share a character, "
        "which the last of them shows.</p>"
    )


def _text(characters: Characters) -> str:
    """A token that only begins a character is a dot."""
    if characters.shared and not characters.text:
        return "<i>·</i>"
    return html.escape(characters.text, quote=False).replace("\n", "<i>⏎</i>\n")


def _quoted(tokenizer: Tokenizer, token: int, shared: str = "") -> str:
    """In quotation marks, with which spaces and newlines can be seen; bytes that are not UTF-8 as such.

    shared: characters of which the token holds a part."""
    data = tokenizer.token_bytes(token)
    try:
        return _in_quotes(data.decode())
    except UnicodeDecodeError:
        name = "byte" if len(data) == 1 else "bytes"
        return f"{name} {data.hex(' ')}" + (f" of {_in_quotes(shared)}" if shared else "")


def _in_quotes(text: str) -> str:
    return html.escape(json.dumps(text, ensure_ascii=False), quote=False)


def _facts(loss: float, characters: Characters) -> str:
    part = f", part of {html.escape(characters.shared)}" if characters.shared else ""
    return f"{loss:.2f} nats, {_probability(loss)}{part}"


def _probability(loss: float) -> str:
    """As HTML."""
    percent = 100 * math.exp(-loss)
    return f"{percent:.3g} %" if percent >= LEAST_PERCENT else f"&lt; {LEAST_PERCENT:g} %"


def _cells(bucket: Bucket) -> tuple[str, str, str]:
    return f"{bucket.count:,}", f"{bucket.mean:.3f}", f"{bucket.share:.1%}"


def _bucket_table(name: str, buckets: Sequence[Bucket]) -> str:
    rows = [(html.escape(bucket.name), *_cells(bucket)) for bucket in buckets]
    return _table((name, "tokens", "nats per token", "share of the loss"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """rows: HTML. texts: number of columns that hold text."""

    def line(cells: Sequence[str], tag: str) -> str:
        marked = (f"<{tag}{' class=t' if i < texts else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    table = f"<table>{line(heads, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
    return scrolling(table, heads[0])
