"""Results as a table of text that a terminal of 100 columns shows whole: one line a benchmark, its peers beneath it.

In: results as pytest-benchmark saves them, with the `extra_info` of measuring.py. Out: lines. Columns in which no
result has anything are left out.

A change since an earlier run is judged by the peers: their code did not change between two commits of ours, so what
they took then and now shows how far the machine's moods go. Within that, within what a benchmark's own peers changed by,
and within both runs' own spread, a change is called noise. Two commits in turns (compare.py) see through such moods;
two runs at two times cannot.
"""

import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence

WIDTH = 100
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
CELLS = ("benchmark", "median", "±", "tokens/s", "bytes/s", "FLOP/s", "of ceiling")
MANY = 10  # peers from which on the outermost tenth on either side is left out of the drift


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


def split_name(result: Mapping) -> tuple[str, str]:
    """`bench/test_tokenizer.py::test_encode[A]` → ("tokenizer", "encode[A]")."""
    file, _, test = result["fullname"].rpartition("::")
    return file.rpartition("test_")[2].removesuffix(".py"), test.removeprefix("test_")


def name_of(result: Mapping) -> str:
    """`bench/test_tokenizer.py::test_encode[A]` → "tokenizer encode[A]"."""
    return " ".join(split_name(result))


def by_file(results: Sequence[Mapping]) -> Iterator[tuple[str, list[Mapping]]]:
    """(tokenizer, its results), …"""
    groups: dict[str, list[Mapping]] = {}
    for result in results:
        groups.setdefault(split_name(result)[0], []).append(result)
    yield from sorted(groups.items())


def times(ratio: Mapping) -> str:
    """How many times as fast, with the quartiles of the pairs: "2.10x (2.09-2.11)"."""
    spread = f"({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio["rounds"] > 1 else "(one round)"
    return f"{ratio['median']:.2f}x {spread}"


def against(result: Mapping) -> str:
    """Ours beside each peer: "2.10x (1.90-2.40) gigatoken, 30.00x (one round) tiktoken"."""
    peers = result.get("extra_info", {}).get("peers", {})
    return ", ".join(f"{times(peer['ratio'])} {name}" for name, peer in peers.items())


def peer_changes(results: Sequence[Mapping], before: Mapping[str, Mapping]) -> list[float]:
    """How many times as fast each peer is now as it was then, where both runs timed it on the same work."""
    found = []
    for result in results:
        then = before.get(result["fullname"])
        if then is None or not same_work(result, then):
            continue
        old = then["extra_info"].get("peers", {})
        found += [
            old[name]["median"] / peer["median"]
            for name, peer in result["extra_info"].get("peers", {}).items()
            if name in old
        ]
    return found


def drift(changes: Sequence[float]) -> tuple[float, float]:
    """(low, high): how far peers that did not change seem to have changed, at least 1 to 1; the outermost tenths
    left out where there are many."""
    if len(changes) >= MANY:
        tenths = statistics.quantiles(changes, n=10, method="inclusive")
        changes = (tenths[0], tenths[-1])
    return min([1.0, *changes]), max([1.0, *changes])


def own_moods(result: Mapping, before: Mapping[str, Mapping]) -> tuple[float, float]:
    """(low, high): how far a benchmark's own peers, timed in turns with it, seem to have changed. None is left out, and
    each is as uncertain as its pairs were in the two runs."""
    bounds = [1.0]
    for name in result.get("extra_info", {}).get("peers", {}):
        for changed in peer_changes([only(result, name)], before):
            runs = (result, before[result["fullname"]])
            ratios = [run["extra_info"]["peers"][name]["ratio"] for run in runs]
            wide = math.prod(max(r["high"] / r["median"], r["median"] / r["low"]) for r in ratios)
            bounds += [changed / wide, changed * wide]
    return min(bounds), max(bounds)


def only(result: Mapping, peer: str) -> dict:
    """A result with one of its peers."""
    info = result["extra_info"]
    return {**result, "extra_info": {**info, "peers": {peer: info["peers"][peer]}}}


def same_work(one: Mapping, other: Mapping) -> bool:
    """Whether two results are of the same work, as far as both say; suites of other commits may say more or less."""
    a, b = (result.get("extra_info", {}).get("work", {}) for result in (one, other))
    common = a.keys() & b.keys()
    return bool(common) and all(a[name] == b[name] for name in common)


def change(result: Mapping, before: Mapping | None, drifted: tuple[float, float] = (1.0, 1.0)) -> str:
    """How the median changed since an earlier run: within both spreads, or within the machine's drift, it is noise."""
    if before is None:
        return "new"
    if not same_work(result, before):
        return "other work"
    now, then = result["stats"], before["stats"]
    faster = then["median"] / now["median"]
    apart = now["q1"] > then["q3"] or now["q3"] < then["q1"]
    return f"{faster:.2f}x" if apart and not drifted[0] <= faster <= drifted[1] else f"{faster:.2f}x noise"


def cells(result: Mapping) -> list[str]:
    """What a result says of itself, in the order of CELLS."""
    stats, info = result["stats"], result.get("extra_info", {})
    rates, fraction = info.get("rates", {}), info.get("fraction")

    def rate(name: str, unit: str = "") -> str:
        value = rates.get(f"{name}_per_second")
        return "" if value is None else amount(value, unit)

    return [
        split_name(result)[1],
        duration(stats["median"]),
        f"{100 * stats['iqr'] / 2 / stats['median']:.0f} %" if stats["rounds"] > 1 else "once",
        rate("tokens"),
        rate("bytes", "B"),
        rate("flops"),
        f"{100 * fraction['value']:.0f} % {fraction['of'].split()[0]}" if fraction else "",
    ]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell; empty ones left out. A row of one cell is a line of its own."""
    whole = [row for row in rows if len(row) > 1]
    kept = [i for i in range(len(head)) if any(row[i] for row in whole)]
    widths = [max(len(row[i]) for row in [head, *whole]) for i in kept]
    padded = [
        row[0] if len(row) == 1 else "  ".join(row[i].ljust(w) for i, w in zip(kept, widths)).rstrip()
        for row in [head, *rows]
    ]
    rule = "-" * max(len(text) for text, row in zip(padded, [head, *rows]) if len(row) > 1)
    return [padded[0], rule, *padded[1:]]


def table(results: Sequence[Mapping], before: Mapping[str, Mapping] | None = None) -> list[str]:
    """The table of a run, and with `before` (as storage.last_results has it) what changed since then."""
    drifted = drift(peer_changes(results, before or {}))
    rows = []
    for group, members in by_file(results):
        rows.append([group])
        for result in members:
            low, high = own_moods(result, before or {})
            moods = min(drifted[0], low), max(drifted[1], high)
            told = change(result, before.get(result["fullname"]), moods) if before else ""
            rows.append([*cells(result), told])
            beneath = f"against peers: {told}" if (told := against(result)) else ""
            if factor := result.get("extra_info", {}).get("times_a_step"):
                beneath = f"{factor:,.0f}x the tokens/s of a training step at the device's rate"
            rows += [[text] for text in wrapped(beneath, "    ")]
    return aligned((*CELLS, "change"), rows)


def wrapped(text: str, indent: str = "") -> list[str]:
    """A line in as many lines of WIDTH as it takes, all but the first further in."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def drift_line(results: Sequence[Mapping], before: Mapping[str, Mapping]) -> str:
    """What the peers say of the machine, in a sentence."""
    changes = peer_changes(results, before)
    if not changes:
        return "No peer was timed in both runs, so a change may be the machine's mood."
    low, high = drift(changes)
    return (
        f"Peers, whose code is the same, were {low:.2f} to {high:.2f} times as fast as then: a change within that is "
        "called noise. To see through it: python -m bench.compare REV"
    )


def ceiling_line(ceilings: Mapping[str, float]) -> str:
    """ "measured ceilings: read 21 GB/s, …, matmul float32 240 GFLOP/s"."""
    told = [
        f"{name} {amount(value, 'FLOP/s' if name.startswith('matmul') else 'B/s')}"
        for name, value in ceilings.items()
    ]
    return "measured ceilings: " + ", ".join(told)
