"""What lmfast_kernels.check measured, as a table of targets: `python -m bench.gpu_kernels FILE.json …`.

In: JSON files that `python -m lmfast_kernels.check` saved on one device (correctness, speed, or both), whole or cut
short. Out (`--output TABLE.json`): a table like the other ones in bench/results/: a row per operator with how many
comparisons were right, a row per target that was measured, a row per timing. Nothing is measured here. Rejected: files
of different devices.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench import machine
from bench.target_table import Row, line, save
from lmfast_kernels.check_report import Report, targets


def read(paths: Sequence[Path]) -> Report:
    """The operators' results of all files in one report. Raises SystemExit where their devices differ."""
    report = Report(torch.device("cpu"), None, {})
    for path in paths:
        found = json.loads(path.read_text())
        here = found.get("machine") or {"device": found["gpu"], "commit": found["commit"]}
        if report.machine and report.machine["device"] != here["device"]:
            raise SystemExit(
                f"{path}: measured on {here['device']}, other files on {report.machine['device']}"
            )
        commits = [*report.machine.get("commits", []), here["commit"]]
        report.machine = report.machine | here | {"commits": list(dict.fromkeys(commits))}
        report.ceilings |= found.get("ceilings", {})
        for operator, results in found["operators"].items():
            kept = report.operators.setdefault(operator, {"checks": [], "timings": [], "done": True})
            kept["checks"] += results["checks"]
            kept["timings"] += results["timings"]
    return report


def rows(report: Report) -> Iterator[Row]:
    for operator, results in report.operators.items():
        checks = [check for check in results["checks"] if "passed" in check]
        if checks:
            wrong = [check["what"] for check in checks if not check["passed"]]
            right = len(checks) - len(wrong)
            yield Row(
                f"{operator}: right at real sizes", None, None, right / len(checks), f"{right} of {len(checks)} comparisons",
                wrong="; ".join(wrong),
            )  # fmt: skip
    for name, measured, must, aim in targets(report):
        if measured is not None:
            yield Row(name, must, aim, measured, f"{measured:.3g}")
    for operator, results in report.operators.items():
        for timing in results["timings"]:
            if "ms" not in timing:
                continue
            scale, unit = (1e12, "TFLOP/s") if timing["unit"] == "flops" else (1e9, "GB/s")
            shown = f"{timing['ms']:.4f} ms, {timing['rate'] / scale:,.1f} {unit}"
            if "fraction" in timing:
                shown += f", {timing['fraction']:.1%} of the measured ceiling"
            name = f"{operator} {timing['what']}: {timing['who']}"
            yield Row(name, None, None, timing["rate"], shown, data={"timing": timing})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_kernels", description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--output", type=Path, help="bench/results/gpu_kernels_<device>.json by default")
    parser.add_argument("--host", type=Path, help="a JSON file of the same run that describes the host")
    arguments = parser.parse_args()
    report = read(arguments.files)
    name = f"gpu_kernels_{machine.slug(report.machine['device'])}.json"
    output = arguments.output or machine.ROOT / "bench" / "results" / name
    host = (
        json.loads(arguments.host.read_text())
        if arguments.host
        else machine.describe(report.machine["device"])
    )
    described = {
        key: host[key] for key in ("host", "system", "cpu", "cores", "gpu", "versions", "commit", "dirty")
    }
    described |= {
        "commit": ", ".join(report.machine["commits"]),
        "dirty": False,
        "ceilings_measured": report.ceilings,
    }
    found = list(rows(report))
    save(output, described | {"converted": datetime.now(UTC).isoformat(timespec="seconds")}, found, 0.0)
    print("\n".join(map(line, found)))
    return 1 if any(row.wrong for row in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
