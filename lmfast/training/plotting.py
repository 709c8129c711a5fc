"""Inline SVG pictures by matplotlib, for pages that open offline.

The page draws the text with its own fonts. Equal input gives equal SVG. Without matplotlib there are no pictures.
"""

import html
import io
import math
import re
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

COLOURS = ("#2563eb", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#a61e4d", "#5c940d", "#495057")
LINES = ("-", "--", ":")  # the next style when all colours are used
POINTS = 200  # points of a curve of medians


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def line_style(i: int) -> str:
    return LINES[i // len(COLOURS) % len(LINES)]


def can_plot() -> bool:
    """Whether matplotlib is installed; if so, selects its SVG backend."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    return True


def picture(
    title: str,
    draw: Callable[[Any], None],
    label: str | None = None,
    size: tuple[float, float] = (5.6, 3.4),
    font_size: float = 10,
) -> str:
    """A <figure> with what `draw` puts on the axes. Needs matplotlib.

    title: different for each picture of a page. label: description for screen readers; defaults to the title.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Fixed ids and no date, so that equal metrics give equal pages.
    salt = title.encode("utf-8", "replace").decode()  # a path need not be UTF-8
    with rc_context({"svg.hashsalt": salt, "font.size": font_size, "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        with warnings.catch_warnings():  # the browser renders the text with its own fonts
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = _without_unused_ids(buffer.getvalue().split("?>", 1)[1].split(">", 1)[1])
    return f'<figure role="img" aria-label="{html.escape(label or title)}">{svg}</figure>'


def _without_unused_ids(svg: str) -> str:
    """Removes ids, which would repeat on a page: matplotlib numbers the elements of every picture from 1.

    The gid "class:x" of an artist becomes its class x, which a page can select."""
    svg = re.sub(r' id="class:([^"]*)"', r' class="\1"', svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    return re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)


def add_legend(axes: Any, legend: Sequence[tuple[Any, str]], **options: Any) -> None:
    """A legend with literal names: matplotlib would parse $x$ as mathematics and hide names starting with an underscore."""
    lines = [line for line, _ in legend]
    shown = axes.legend(
        lines, [f"{i}" for i in range(len(lines))], edgecolor="none", framealpha=0.85, **options
    )
    for text, (_, name) in zip(shown.get_texts(), legend, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def interval_medians(xs: list, ys: list, points: int = POINTS) -> tuple[list, list]:
    """Medians of `points` intervals: 20,000 noisy points would look like a solid block."""
    size = math.ceil(len(xs) / points)
    starts = range(0, len(xs), max(size, 1))
    return [xs[min(i + size // 2, len(xs) - 1)] for i in starts], [
        statistics.median(ys[i : i + size]) for i in starts
    ]
