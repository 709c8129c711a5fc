"""What saved files say, in one form: runs of the suite (`pytest bench/`) and tables of targets (target_table.py).

In: JSON files as either wrote them. Out: where and with what it was measured, in lines; and `Entry`s, one for each thing
that was measured: ours, and each peer's seconds for the same work with the ratio of the pairs. Nothing is measured or
looked up here. Refused, in one line: what is neither.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine, table
from lmfast.errors import UserError

RESULTS = machine.ROOT / "bench" / "results"
PEERS = {"generation": "LlamaForCausalLM.generate", "training": "LlamaForCausalLM"}
"""table of targets → who is meant by "peer" in its times"""


@dataclass(frozen=True)
class Peer:
    """Another implementation: median seconds for the work that we were timed on; ratio: {median, low, high, rounds}."""

    name: str
    seconds: float
    ratio: Mapping


@dataclass(frozen=True)
class Entry:
    """One thing that was measured. `seconds` is ours, None where something else than time was measured; `cells` are
    table.CELLS of the suite, or (name, measured, must, aim, verdict) of a table of targets."""

    group: str
    name: str
    seconds: float | None
    cells: list[str]
    peers: list[Peer] = field(default_factory=list)
    note: str = ""

    @property
    def fastest(self) -> Peer | None:
        """By the ratio of the pairs."""
        return min(self.peers, key=lambda peer: peer.ratio["median"], default=None)


def read(paths: Iterable[Path]) -> list[dict]:
    """Saved files, each with its `source`. Raises UserError for one that is none."""
    return [one(path) for path in paths]


def one(path: Path) -> dict:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}); name a run that the suite saved"
        ) from None
    if not isinstance(run, dict) or not ("benchmarks" in run or "rows" in run):
        raise UserError(f"{path}: holds no benchmarks; name a run that the suite saved")
    described = run.get("machine_info", {}) if is_suite(run) else run
    needed = ["cpu", "cores", "gpu", "host", "system", "versions", "commit", "dirty"]
    for name in needed + ["mode"] * is_suite(run):
        if name not in described:
            raise UserError(f"{path}: does not say {name}; name a run that this suite saved")
    run |= {"source": path.stem}
    try:
        entries(run)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: a result in it is not as this suite saves one ({error!r}); name a run that it saved"
        ) from None
    return run


def is_suite(run: Mapping) -> bool:
    return "benchmarks" in run


def machine_of(run: Mapping) -> Mapping:
    """What machine.describe said when it was measured."""
    return run["machine_info"] if is_suite(run) else run


def device(run: Mapping) -> str:
    """ "AMD EPYC, 2 cores"."""
    here = machine_of(run)
    return f"{here['gpu'] or here['cpu']}, {here['cores']} cores"


def facts(run: Mapping) -> list[str]:
    """What a run measured, where and with what, in lines; the first is a heading."""
    here = machine_of(run)
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    changed = " with uncommitted changes" if here["dirty"] else ""
    when = f"{run['datetime'][:16].replace('T', ' ')} UTC, " if run.get("datetime") else ""
    title = f"Suite, {here['mode']} sizes" if is_suite(run) else f"Targets of the {group_of(run)} table"
    if here.get("selection"):
        title += f", a selection ({here['selection']})"
    lines = [
        f"{title}: {device(run)}",
        f"{when}commit {here['commit']}{changed}, {here['system']}, host {here['host']}",
        f"from {run['source']}.json",
        versions,
    ]
    return lines + ([table.ceiling_line(here["ceilings"])] if here.get("ceilings") else [])


def entries(run: Mapping) -> list[Entry]:
    """Everything in a run, in its order."""
    return (
        [of_suite(result) for result in run["benchmarks"]]
        if is_suite(run)
        else [of_row(row, group_of(run)) for row in run["rows"]]
    )


def group_of(table: Mapping) -> str:
    """ "tokenizer" of bench/results/tokenizer_amd-epyc.json."""
    return table["source"].partition("_")[0]


def of_suite(result: Mapping) -> Entry:
    group, name = table.split_name(result)
    info, median = result.get("extra_info", {}), result["stats"]["median"]
    peers = [Peer(peer, found["median"], found["ratio"]) for peer, found in info.get("peers", {}).items()]
    rates, fraction = info.get("rates", {}), info.get("fraction")
    parts = [table.duration(median)]
    if "tokens_per_second" in rates:
        parts.append(f"{table.amount(rates['tokens_per_second'])} tokens/s")
    if "bytes_per_second" in rates and not fraction:
        parts.append(table.amount(rates["bytes_per_second"], "B/s"))
    if fraction:
        parts.append(f"{100 * fraction['value']:.0f} % of {fraction['of']}")
    return Entry(group, name, median, table.cells(result), peers, ", ".join(parts))


def of_row(row: Mapping, group: str) -> Entry:
    """A row of a table of targets; it has a peer where its times hold ours and somebody else's."""
    limit = "≤" if row["at_most"] else "≥"
    told = [f"{limit} {row[name]:g}" if row[name] else "" for name in ("must", "aim")]
    cells = [row["name"], row["shown"], *told, row["verdict"] if row["must"] else ""]
    data = row["data"]
    times = data.get("times", {})
    others = [name for name in times if name not in ("ours", "memory", "resident")]
    if "ours" not in times or "ratio" not in data or len(others) != 1:
        return Entry(group, row["name"], None, cells)
    # tiktoken's pace does not depend on the length: it is timed on a part, and our time is that part's share.
    ours = statistics.median(times["ours"]) * data.get("share", 1)
    name = PEERS.get(group, others[0]) if others[0] == "peer" else others[0]
    peer = Peer(name, statistics.median(times[others[0]]), data["ratio"])
    return Entry(group, row["name"], ours, cells, [peer], table.duration(ours))
