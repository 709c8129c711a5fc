"""Runs and rows for the tests of their readers."""

from bench.results import Row, Run

MACHINE = {
    "host": "here", "system": "Linux x86_64", "cpu": "A <CPU>", "cores": 2, "gpu": None, "commit": "abc", "dirty": True,
    "versions": {"python": "3.11"},
}  # fmt: skip
WHEN = "2026-11-23T08:00:00+00:00"


def result(name: str, median: float, peers: dict | None = None, work: dict | None = None) -> Row:
    """A row of the suite, whose times differ by 1 %; peers: {name: how many times as fast we are}."""
    times = {
        who: [median * factor * x for x in (0.99, 1.0, 1.01)]
        for who, factor in {"ours": 1, **(peers or {})}.items()
    }
    return Row(name, median, f"{median} s", at_most=True, group="tokenizer", times=times,
               work=work or {"bytes": 1000, "tokens": 250})  # fmt: skip


def run(*rows: Row, **settings) -> Run:
    """A run of the suite."""
    settings = {"mode": "quick"} | settings
    return Run(
        "suite", MACHINE, list(rows), WHEN, settings=settings, ceilings={"read": 2e10}, source="0001_abc"
    )


def target_table(*rows: Row, when: str = WHEN, source: str = "tokenizer_x", **machine) -> Run:
    """A table of targets."""
    return Run(source.partition("_")[0], MACHINE | machine, list(rows), when, source=source)


def row(name: str, ours: float, peer: str | None = "gigatoken", times: float = 2.0, **data) -> Row:
    """A row with a target; with a peer, how many times as fast we are."""
    taken = {} if peer is None else {"ours": [ours] * 3, peer: [ours * times] * 3}
    return Row(name, times, f"{times} x", 3, times=taken, data=data)
