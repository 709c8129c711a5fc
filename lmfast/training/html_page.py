"""Self-contained HTML pages: the style that reports share, the document, and formatted cells."""

import html
from collections.abc import Sequence

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; max-width: 1160px; margin: 2rem auto;
       padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
figure { margin: 0; } .plots { display: grid; grid-template-columns: repeat(2, 1fr); gap: 1rem; }
.plots svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e3e5e8; vertical-align: top; }
th { color: #555; font-weight: 600; } .note { color: #555; } .key { display: inline-block; width: .8em; height: .8em;
margin-right: .4em; border-radius: 2px; box-sizing: border-box; }
table.rows :is(td, th) { font-size: 13px; padding-right: .6rem; }
table.rows td:first-child { overflow-wrap: anywhere; min-width: 8em; position: relative; padding-left: 1.3em; }
table.rows .key { position: absolute; left: 0; top: .65em; }
.scroll { overflow-x: auto; }
blockquote { margin: .6rem 0; padding: .6rem 1rem; background: #f5f6f7;
border-left: 3px solid #c9ccd1; white-space: pre-wrap; } details { margin: .6rem 0; } pre { overflow-x: auto; }
@media (max-width: 800px) { .plots { grid-template-columns: 1fr; } }
"""


def document(title: str, body: str, style: str = "") -> str:
    """The page. title: plain text; body: HTML; style: CSS after the shared one."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def data_cells(cells: Sequence[str]) -> str:
    """Table cells of plain text."""
    return "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)


def scrolling(table: str, label: str) -> str:
    """A table that scrolls inside its container on a narrow screen. label: plain text, for screen readers."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(label)}">{table}</div>'


def scrolling_table(heads: Sequence[str], rows: Sequence[str], label: str) -> str:
    """A table with a row per item that scrolls inside its container. heads and rows (their cells): HTML."""
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return scrolling(f'<table class="rows"><tr>{head}</tr>{body}</table>', label)


def number(value: float | None, digits: int | None = None) -> str:
    """A number with thousands separators; empty for None. digits: decimals, or None for as many as it has."""
    if value is None:
        return ""
    return f"{value:,}" if digits is None else f"{value:,.{digits}f}"
