"""A self-contained HTML page of documents and their tokens.

Input: a tokenizer and documents (`Shown`: ids, loss mask, facts). Adjacent tokens have different background colours;
special tokens are red, tokens without loss are grey without background. The list of documents, the number field and the
keys j and k navigate; the footer shows position, id and bytes of the token under the pointer.
"""

import html
import json
from collections.abc import Sequence

from lmfast.cli.tokenizer.rendering import Shown, token_text
from lmfast.tokenizer.bpe import Tokenizer

STYLE = """
:root { --ground: #fff; --ink: #1c1e21; --faint: #6b7280; --line: #e3e5e8; --panel: #f6f7f8; --special: #b91c1c;
  --c0: #cfe3ff; --c1: #fdeab0; --c2: #cdf3d8; --c3: #fbd5e8; --c4: #dcdcff; --c5: #ffdfc2; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181c; --ink: #e8eaed; --faint: #9aa0a8; --line: #33373d;
  --panel: #1f2227; --special: #dc2626; --c0: #1d3f66; --c1: #54440f; --c2: #17492c; --c3: #57203f; --c4: #39386b;
  --c5: #59350f; } }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  display: grid; grid-template-columns: 15rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.2rem .9rem 4rem; background: var(--panel);
  border-right: 1px solid var(--line); font-size: .86rem; }
nav a { display: flex; justify-content: space-between; gap: .6rem; padding: .15rem .4rem; border-radius: 4px;
  color: inherit; text-decoration: none; font-variant-numeric: tabular-nums; }
nav a:hover, nav a.here { background: var(--line); } nav a span { color: var(--faint); }
nav input { width: 100%; margin: 0 0 .7rem; padding: .3rem .5rem; font: inherit; color: inherit;
  background: var(--ground); border: 1px solid var(--line); border-radius: 4px; }
main { padding: 1.4rem 2.2rem 5rem; max-width: 62rem; }
h1 { font-size: 1.25rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1rem; margin: 2.2rem 0 .5rem; }
p, ul { margin: .3rem 0; color: var(--faint); font-size: .9rem; } ul { padding-left: 1.1rem; }
.legend { margin-top: .7rem; } .legend b:not(.s, .n) { color: var(--ink); }
.tokens { margin: 0; font: 15px/1.75 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
b { font-weight: inherit; border-radius: 3px; padding: .08em 0; }
.c0 { background: var(--c0); } .c1 { background: var(--c1); } .c2 { background: var(--c2); }
.c3 { background: var(--c3); } .c4 { background: var(--c4); } .c5 { background: var(--c5); }
b.s { color: #fff; background: var(--special); font-weight: 600; padding: .08em .25em; }
b.n { color: var(--faint); background: none; border-bottom: 1px dotted var(--faint); border-left: 1px solid var(--line);
  border-radius: 0; }
b.s.n { color: var(--special); } b:hover { outline: 2px solid var(--ink); }
i { font-style: normal; color: var(--faint); }
footer { position: fixed; inset: auto 0 0 15rem; padding: .45rem 2.2rem; background: var(--panel);
  border-top: 1px solid var(--line); font: .86rem ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; }
@media (max-width: 700px) { body { display: block; } nav { position: static; height: auto; max-height: 9rem; }
  main { padding: 1rem 1rem 5rem; } footer { left: 0; } }
"""

SCRIPT = """
const foot = document.querySelector("footer"), quiet = foot.textContent;
const links = [...document.querySelectorAll("nav a")], parts = [...document.querySelectorAll("section")];
let here = 0;
document.querySelector("main").addEventListener("mouseover", event => {
  const token = event.target.closest("b[data-i]");
  if (!token) { foot.textContent = quiet; return; }
  const [text, size] = tokens[token.dataset.i], place = [...token.parentNode.children].indexOf(token);
  foot.textContent = `token ${place} · id ${token.dataset.i} · ${size} ${size == 1 ? "byte" : "bytes"} · ${text}` +
    (token.classList.contains("n") ? " · no loss" : "");
});
function go(i) { if (parts[i]) { parts[i].scrollIntoView(); mark(i); } }
function mark(i) { links[here]?.classList.remove("here"); here = i; links[i]?.classList.add("here"); }
document.querySelector("nav input").addEventListener("input", event =>
  go(parts.findIndex(part => part.dataset.n == event.target.value)));
links.forEach((link, i) => link.addEventListener("click", () => mark(i)));
addEventListener("keydown", event => {
  if (event.target.tagName == "INPUT") return;
  if (event.key == "j") go(here + 1); else if (event.key == "k") go(here - 1);
});
mark(0);
"""


def html_page(tokenizer: Tokenizer, title: str, about: str, documents: Sequence[Shown], limit: int) -> str:
    """The page. about: a line about the tokenizer; limit: number of tokens to show of each document."""
    masked = any(document.mask is not None for document in documents)
    used = sorted({token for document in documents for token in document.ids[:limit].tolist()})
    table = {
        token: [
            json.dumps(token_text(tokenizer, token), ensure_ascii=False),
            len(tokenizer.token_bytes(token)),
        ]
        for token in used
    }
    # "</" would end the script.
    tokens = json.dumps(table, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    links = "".join(
        f'<a href="#d{i}">{html.escape(document.title)}<span>{len(document.ids):,}</span></a>'
        for i, document in enumerate(documents)
    )
    sections = "".join(_section(tokenizer, i, document, limit) for i, document in enumerate(documents))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        '<nav><input type="number" min="0" placeholder="go to document" aria-label="go to document">'
        f"{links}</nav><main><h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>{_legend(masked)}{sections}</main>"
        "<footer>hover over a token for details; j and k go to the next and previous document</footer>"
        f"<script>const tokens = {tokens};{SCRIPT}</script></body></html>\n"
    )


def _legend(masked: bool) -> str:
    loss = ' · <b class="n">no loss</b>: input only, not trained on' if masked else ""
    return (
        '<p class="legend">One colour per token: <b class="c0">one</b><b class="c1"> after</b><b class="c2"> another</b> · '
        f'<b class="s">special token</b> · <i>⏎</i> is a newline{loss}</p>'
    )


def _section(tokenizer: Tokenizer, place: int, document: Shown, limit: int) -> str:
    special = set(tokenizer.special_tokens.values())
    tokens = []
    for position, token in enumerate(document.ids[:limit].tolist()):
        kind = "s" if token in special else f"c{position % 6}"
        if document.mask is not None and not document.mask[position]:
            kind = "s n" if token in special else "n"
        text = html.escape(token_text(tokenizer, token), quote=False).replace("\n", "<i>⏎</i>\n")
        tokens.append(f'<b class="{kind}" data-i="{token}">{text}</b>')
    more = len(document.ids) - limit
    rest = f"<p>… {more:,} more tokens</p>" if more > 0 else ""
    loss = [] if document.mask is None else [f"{int(document.mask.sum()):,} tokens carry loss"]
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in [*loss, *document.facts])
    number = "".join(letter for letter in document.title if letter.isdigit())
    return (
        f'<section id="d{place}" data-n="{number}"><h2>{html.escape(document.title)}</h2>'
        f'<pre class="tokens">{"".join(tokens)}</pre>{rest}<ul>{facts}</ul></section>'
    )
