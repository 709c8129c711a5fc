"""Statistics of token files: documents, bytes per token, document lengths, vocabulary use.

Input: token files (token_file.py) and their tokenizer; a document ends with the id of `<|endoftext|>`, which counts as part
of it. Output: a `Stats` per file, as text with a histogram of document lengths, and as stats.txt, stats.json and stats.png
in a folder. Bytes include the separators, as in the summary of a token file, so bytes per token is the same everywhere.
Files are read in pieces; memory grows only with the number of documents.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.tokenizer.special_tokens import DOCUMENT_END

if TYPE_CHECKING:
    from lmfast.tokenizer.bpe import Tokenizer

PIECE = 1 << 22  # ids per read
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BAR = 40  # characters of the longest bar


@dataclass(frozen=True)
class Stats:
    """Statistics of one token file. Lengths are in tokens, including <|endoftext|>.

    longest: (index from 0, tokens, bytes) of the longest document. quantiles: {quantile: length}. histogram: (from, to,
    documents) for lengths in powers of two, inclusive. common: (token as text, count) of the most frequent tokens.
    used: number of ids of the vocabulary that occur."""

    name: str
    tokens: int
    documents: int
    bytes: int
    vocab_size: int
    used: int
    longest: tuple[int, int, int]
    quantiles: dict[str, int]
    histogram: list[tuple[int, int, int]]
    common: list[tuple[str, int]]
    lengths: np.ndarray = field(repr=False)

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)


def token_stats(name: str, tokens: np.ndarray, tokenizer: "Tokenizer") -> Stats:
    """The statistics of a token file, whose ids must be in the vocabulary."""
    bytes_of = tokenizer.token_lengths()
    end = tokenizer.special_tokens.get(DOCUMENT_END, -1)
    uses = np.zeros(tokenizer.vocab_size, np.int64)
    ends, bytes_at_ends, total = [], [], 0
    for start in range(0, len(tokens), PIECE):
        piece = np.asarray(tokens[start : start + PIECE])
        uses += np.bincount(piece, minlength=tokenizer.vocab_size)
        size = np.cumsum(bytes_of[piece]) + total
        at = np.flatnonzero(piece == end)
        ends.append(at + start + 1)
        bytes_at_ends.append(size[at])
        total = int(size[-1])
    edges = np.unique(np.concatenate([[0], *ends, [len(tokens)]]))
    sizes = np.unique(np.concatenate([[0], *bytes_at_ends, [total]]))
    lengths = np.diff(edges)
    longest = int(lengths.argmax())
    common = np.argsort(-uses, kind="stable")[:10]
    return Stats(
        name=name,
        tokens=len(tokens),
        documents=len(lengths),
        bytes=total,
        vocab_size=tokenizer.vocab_size,
        used=int((uses > 0).sum()),
        longest=(longest, int(lengths[longest]), int(np.diff(sizes)[longest])),
        quantiles={str(q): int(np.quantile(lengths, q, method="inverted_cdf")) for q in QUANTILES},
        histogram=histogram(lengths),
        common=[
            (tokenizer.token_bytes(i).decode("utf-8", "backslashreplace"), int(uses[i]))
            for i in common.tolist()
            if uses[i]
        ],
        lengths=lengths,
    )


def histogram(lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """(from, to, count) for lengths 1, 2-3, 4-7, …, without empty bins at either end. lengths: int64, at least 1."""
    counts = np.bincount(np.frexp(lengths.astype(np.float64))[1] - 1)
    first = int(np.flatnonzero(counts)[0])
    return [(1 << i, (2 << i) - 1, int(counts[i])) for i in range(first, len(counts))]


def stats_text(stats: Sequence[Stats]) -> str:
    """The statistics as text, one paragraph per file."""
    return "\n\n".join("\n".join(_lines(each)) for each in stats)


def _lines(stats: Stats) -> list[str]:
    number, tokens, size = stats.longest
    lines = [
        f"{stats.name}: {counted(stats.documents, 'document')}, {counted(stats.bytes, 'byte')}, "
        f"{counted(stats.tokens, 'token')}, "
        f"{stats.bytes_per_token:.3f} bytes/token",
        f"  longest document: number {number:,}, {tokens:,} tokens, {size:,} bytes",
        "  tokens per document: "
        + ", ".join(f"{float(q):.0%} up to {length:,}" for q, length in stats.quantiles.items())
        + f"; mean {stats.tokens / stats.documents:,.1f}",
        f"  vocabulary: {stats.used:,} of {stats.vocab_size:,} ids occur; most frequent: "
        + ", ".join(f"{text!r} {uses / stats.tokens:.1%}" for text, uses in stats.common[:6]),
        "",
    ]
    most = max(count for _, _, count in stats.histogram)
    for low, high, count in stats.histogram:
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        share = count / stats.documents
        lines.append(f"  {f'{low:,}-{high:,}':>17} tokens  {bar:<{BAR}} {count:>10,}  {share:>6.1%}")
    return lines


def write_stats(folder: Path, stats: Sequence[Stats]) -> list[Path]:
    """Writes stats.txt, stats.json and stats.png to the folder; returns their paths."""
    paths = [folder / f"stats.{kind}" for kind in ("txt", "json", "png")]
    with atomic_write(paths[0]) as temporary:
        temporary.write_text(stats_text(stats) + "\n", encoding="utf-8")
    with atomic_write(paths[1]) as temporary:
        facts = [{k: v for k, v in asdict(each).items() if k != "lengths"} for each in stats]
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    with atomic_write(paths[2]) as temporary:
        draw(temporary, stats)
    return paths


def draw(path: Path, stats: Sequence[Stats]) -> None:
    """Plots the distribution of document lengths as PNG, one curve per file."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "stats.png needs matplotlib, which is not installed; run `pip install matplotlib`"
        ) from None
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    longest = max(int(each.lengths.max()) for each in stats)
    edges = np.unique(np.round(np.exp2(np.arange(0, np.log2(longest) + 0.5, 0.25))))  # quarters of an octave
    edges = np.append(edges[edges <= longest], longest + 1)
    for i, each in enumerate(stats):
        counts, _ = np.histogram(each.lengths, edges)
        colour = f"C{i}"
        axes.stairs(100 * counts / each.documents, edges, color=colour, lw=1.6, fill=False)
        axes.stairs(100 * counts / each.documents, edges, color=colour, alpha=0.15, fill=True)
        median = each.quantiles["0.5"]
        label = f"{Path(each.name).name}: {counted(each.documents, 'document')}, median {counted(median, 'token')} (dotted)"
        axes.axvline(median, color=colour, ls=":", lw=1.4, label=label)
    axes.set(xscale="log", xlabel="tokens per document", ylabel="% of documents", title="Document lengths")
    axes.set_xlim(left=max(1, min(int(each.lengths.min()) for each in stats) / 1.5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, loc="outside lower center", fontsize=9)
    figure.savefig(path, format="png")
