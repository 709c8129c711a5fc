"""Results as a table of text: one line a benchmark, rates in units that people read.

In: results as pytest-benchmark saves them, with the `extra_info` of measuring.py. Out: lines. Columns in which no
result has anything are left out.
"""

from collections.abc import Mapping, Sequence

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
HEAD = (
    "benchmark",
    "median",
    "spread",
    "tokens/s",
    "bytes/s",
    "FLOP/s",
    "moved",
    "of ceiling",
    "against peers",
    "change",
)


def amount(value: float, unit: str = "") -> str:
    """1234567 → "1.23 M"."""
    for size, letter in UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """0.00123 → "1.23 ms"."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def name_of(result: Mapping) -> str:
    """`bench/test_tokenizer.py::test_encode[A]` → "tokenizer encode[A]"."""
    file, _, test = result["fullname"].rpartition("::")
    return f"{file.rpartition('test_')[2].removesuffix('.py')} {test.removeprefix('test_')}"


def against(peers: Mapping[str, Mapping]) -> str:
    """ "2.1x gigatoken (1.9-2.4), 30x tiktoken"."""
    told = []
    for name, peer in peers.items():
        r = peer["ratio"]
        spread = f" ({r['low']:.2f}-{r['high']:.2f})" if r["rounds"] > 1 else " (one round)"
        told.append(f"{r['median']:.2f}x {name}{spread}")
    return ", ".join(told)


def change(result: Mapping, before: Mapping | None) -> str:
    """How the median changed since the last run of the same kind; a change within both spreads is called noise."""
    if before is None:
        return ""
    if result["extra_info"].get("work") != before["extra_info"].get("work"):
        return "other work"
    now, then = result["stats"], before["stats"]
    faster = then["median"] / now["median"]
    apart = now["q1"] > then["q3"] or now["q3"] < then["q1"]
    return f"{faster:.2f}x" if apart else f"{faster:.2f}x (noise)"


def line(result: Mapping, before: Mapping | None = None) -> list[str]:
    """The cells of one result, in the order of HEAD."""
    stats, info = result["stats"], result.get("extra_info", {})
    rates, fraction = info.get("rates", {}), info.get("fraction")

    def rate(name: str, unit: str = "") -> str:
        value = rates.get(f"{name}_per_second")
        return "" if value is None else amount(value, unit)

    return [
        name_of(result),
        duration(stats["median"]),
        f"±{100 * stats['iqr'] / 2 / stats['median']:.0f} %" if stats["rounds"] > 1 else "one round",
        rate("tokens"),
        rate("bytes", "B"),
        rate("flops"),
        rate("moved", "B/s"),
        f"{100 * fraction['value']:.0f} % {fraction['of']}" if fraction else "",
        against(info.get("peers", {})),
        change(result, before),
    ]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell; empty ones left out."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in kept]
    padded = [
        "  ".join(row[i].ljust(width) for i, width in zip(kept, widths)).rstrip() for row in [head, *rows]
    ]
    return [padded[0], "-" * max(map(len, padded)), *padded[1:]]


def table(results: Sequence[Mapping], before: Mapping[str, Mapping]) -> list[str]:
    """The table of a run; `before` as storage.last_results has it."""
    return aligned(HEAD, [line(result, before.get(result["fullname"])) for result in results])


def ceiling_line(ceilings: Mapping[str, float]) -> str:
    """ "measured ceilings: read 21 GB/s, …, matmul float32 240 GFLOP/s"."""
    told = [
        f"{name} {amount(value, 'FLOP/s' if name.startswith('matmul') else 'B/s')}"
        for name, value in ceilings.items()
    ]
    return "measured ceilings: " + ", ".join(told)
