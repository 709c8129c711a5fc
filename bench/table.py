"""A run of the suite as text in 100 columns: one line per benchmark, its peers below it. Empty columns are left out.

A change since an earlier run is judged by the peers: their code did not change between two commits of ours, so their
times then and now show how much the machine varies. Within that, within the changes of a benchmark's own peers, and
within both runs' own spread, a change is called noise. Alternating runs of two commits (compare.py) see through such
variation; two runs at two times cannot.
"""

import math
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bench.results import Row, Run
from bench.timing import Ratio

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


def by_group(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """(tokenizer, its rows), …"""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    yield from sorted(groups.items())


def times(ratio: Ratio) -> str:
    """How many times as fast, with the quartiles of the pairs: "2.10x (2.09-2.11)"."""
    spread = f"({ratio.low:.2f}-{ratio.high:.2f})" if ratio.rounds > 1 else "(one round)"
    return f"{ratio.median:.2f}x {spread}"


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third; of a single value, that value."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def same_work(one: Row, other: Row) -> bool:
    """Whether two rows did the same work in the figures that both state; suites of other commits may state more or less."""
    common = one.work.keys() & other.work.keys()
    return bool(common) and all(one.work[name] == other.work[name] for name in common)


Before = Mapping[tuple[str, str], Row]  # rows of earlier runs by their keys


def peer_changes(row: Row, before: Before) -> list[tuple[float, float]]:
    """(how many times as fast a peer is now as then, by which factor that is uncertain) where both runs timed it on the
    same work; uncertain are the pairs of both runs."""
    then = before.get(row.key)
    if then is None or not same_work(row, then):
        return []
    old, found = {peer.name: peer for peer in then.peers}, []
    for peer in row.peers:
        if peer.name in old:
            ratios = [peer.ratio, old[peer.name].ratio]
            wide = math.prod(max(r.high / r.median, r.median / r.low) for r in ratios)
            found.append((old[peer.name].seconds / peer.seconds, wide))
    return found


def drift(rows: Iterable[Row], before: Before) -> tuple[float, float] | None:
    """(low, high): how much peers that did not change seem to have changed, at least 1 to 1; the outermost tenths left
    out where there are many. None where no peer was timed in both runs."""
    changes = [change for row in rows for change, _ in peer_changes(row, before)]
    if not changes:
        return None
    if len(changes) >= MANY:
        tenths = statistics.quantiles(changes, n=10, method="inclusive")
        changes = [tenths[0], tenths[-1]]
    return min([1.0, *changes]), max([1.0, *changes])


def change(row: Row, before: Before, drifted: tuple[float, float] = (1.0, 1.0)) -> str:
    """How the median changed since an earlier run: within both spreads, within the machine's drift, or within the changes
    of the row's own peers, it is noise."""
    then = before.get(row.key)
    if then is None:
        return "new"
    if not same_work(row, then):
        return "other work"
    bounds = [*drifted]
    for changed, wide in peer_changes(row, before):
        bounds += [changed / wide, changed * wide]
    (low, high), (then_low, then_high) = quartiles(row.ours), quartiles(then.ours)
    faster = then.median / row.median
    clear = (low > then_high or high < then_low) and not min(bounds) <= faster <= max(bounds)
    return f"{faster:.2f}x" if clear else f"{faster:.2f}x noise"


def cells(row: Row) -> list[str]:
    """In the order of CELLS; nothing but the name for what was not timed."""
    if not row.times:
        return [row.name, *[""] * (len(CELLS) - 1)]
    low, high = quartiles(row.ours)
    rates = [(row.per_second(name), unit) for name, unit in (("tokens", ""), ("bytes", "B"), ("flops", ""))]
    fraction = row.data.get("fraction")
    return [
        row.name,
        duration(row.median),
        f"{100 * (high - low) / 2 / row.median:.0f} %" if len(row.ours) > 1 else "once",
        *("" if rate is None else amount(rate, unit) for rate, unit in rates),
        f"{100 * fraction['value']:.0f} % {fraction['of'].split()[0]}" if fraction else "",
    ]


def against_peers(row: Row) -> str:
    """ "2.10x (1.90-2.40) gigatoken, 30.00x (one round) tiktoken"."""
    return ", ".join(f"{times(peer.ratio)} {peer.name}" for peer in row.peers)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell; empty ones left out. A row of one cell is a separate line."""
    whole = [row for row in rows if len(row) > 1]
    kept = [i for i in range(len(head)) if any(row[i] for row in whole)]
    widths = [max(len(row[i]) for row in [head, *whole]) for i in kept]
    padded = [
        row[0] if len(row) == 1 else "  ".join(row[i].ljust(w) for i, w in zip(kept, widths)).rstrip()
        for row in [head, *rows]
    ]
    rule = "-" * max(len(text) for text, row in zip(padded, [head, *rows]) if len(row) > 1)
    return [padded[0], rule, *padded[1:]]


def table(rows: Sequence[Row], before: Before | None = None) -> list[str]:
    """The table of a run; with `before` also what changed since then."""
    before = before or {}
    drifted, lines = drift(rows, before) or (1.0, 1.0), []
    for group, members in by_group(rows):
        lines.append([group])
        for row in members:
            lines.append([*cells(row), change(row, before, drifted) if before else ""])
            below = f"against peers: {against_peers(row)}" if row.peers else ""
            if factor := row.data.get("times_a_step"):
                below = f"{factor:,.0f}x the tokens/s of a training step at the device's rate"
            lines += [[text] for text in wrapped(below, "    ")]
    return aligned((*CELLS, "change"), lines)


def wrapped(text: str, indent: str = "") -> list[str]:
    """Text in lines of at most WIDTH; all but the first are indented further."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def drift_line(rows: Sequence[Row], before: Before) -> str:
    """How much the machine varied, judged by the peers, as a sentence."""
    drifted = drift(rows, before)
    if drifted is None:
        return "No peer was timed in both runs, so a change may come from the machine."
    low, high = drifted
    return (
        f"Peers, whose code is the same, were {low:.2f} to {high:.2f} times as fast as then: a change within that is "
        "called noise. To see through it: python -m bench.compare REV"
    )


def ceiling_line(ceilings: Mapping[str, float]) -> str:
    """ "measured ceilings: read 21 GB/s, …, matmul float32 240 GFLOP/s"."""
    return "measured ceilings: " + ", ".join(
        f"{name} {amount(value, 'FLOP/s' if name.startswith('matmul') else 'B/s')}"
        for name, value in ceilings.items()
    )


def facts(run: Run) -> list[str]:
    """The lines that describe a run: what it measured, where and with what; the first is a heading."""
    here, settings = run.machine, run.settings
    title = (
        f"Suite, {settings.get('mode')} sizes"
        if run.table == "suite"
        else f"Targets of the {run.table} table"
    )
    if settings.get("selection"):
        title += f", a selection ({settings['selection']})"
    when, changed = run.datetime[:16].replace("T", " "), " with uncommitted changes" if here["dirty"] else ""
    lines = [
        f"{title}: {run.device}",
        f"{when} UTC, commit {here['commit']}{changed}, {here['system']}, host {here['host']}",
        f"from {run.source}.json",
        ", ".join(f"{name} {version}" for name, version in here["versions"].items()),
    ]
    return lines + ([ceiling_line(run.ceilings)] if run.ceilings else [])
