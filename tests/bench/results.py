"""A saved run as the suite writes it, and a table of targets, for the tests of what reads them."""


def result(
    name: str, median: float, peers: dict | None = None, work: dict | None = None, iqr: float = 0.02
) -> dict:
    """One benchmark's result; peers: {name: how many times as fast we are}."""
    work = work or {"bytes": 1000, "tokens": 250}
    ratios = {
        peer: {
            "median": median * times,
            "ratio": {"median": times, "low": times - 0.1, "high": times + 0.1, "rounds": 5},
        }
        for peer, times in (peers or {}).items()
    }
    return {
        "fullname": f"bench/test_tokenizer.py::test_{name}",
        "stats": {
            "median": median, "iqr": iqr * median, "rounds": 5,
            "q1": median * (1 - iqr / 2), "q3": median * (1 + iqr / 2),
        },
        "extra_info": {
            "work": work,
            "rates": {f"{unit}_per_second": amount / median for unit, amount in work.items()},
            **({"peers": ratios} if ratios else {}),
        },
    }  # fmt: skip


def run(*results: dict) -> dict:
    """A run of these results."""
    return {
        "machine_info": {
            "host": "here", "system": "Linux x86_64", "cpu": "A <CPU>", "cores": 2, "gpu": None, "mode": "quick",
            "commit": "abc", "dirty": True, "versions": {"python": "3.11"}, "ceilings": {"read": 2e10},
        },
        "datetime": "2026-11-23T08:00:00+00:00",
        "benchmarks": list(results),
    }  # fmt: skip


def target_table(*rows: dict, when: str | None = "2026-11-23T08:00:00+00:00") -> dict:
    """A table of targets of these rows, as target_table.save writes it."""
    described = {
        name: value for name, value in run()["machine_info"].items() if name not in ("mode", "ceilings")
    }
    return described | ({"datetime": when} if when else {}) | {"seconds": 1.0, "rows": list(rows)}


def row(name: str, ours: float, peer: str | None = "gigatoken", times: float = 2.0, **data) -> dict:
    """A row; with a peer, how many times as fast we are."""
    if peer is not None:
        data |= {
            "times": {"ours": [ours] * 3, peer: [ours * times] * 3},
            "ratio": {"median": times, "low": times - 0.1, "high": times + 0.1, "rounds": 3},
        }
    return {
        "name": name, "must": 3, "aim": None, "value": times, "at_most": False, "verdict": "missed",
        "shown": f"{times} x", "data": data,
    }  # fmt: skip
