"""What lmfast_kernels.check measured, as a table of targets: `python -m bench.gpu_kernels FILE.json …`.

In: JSON files that `python -m lmfast_kernels.check` or bench.gpu_correctness saved on one device, whole or cut short. Out
(`--output TABLE.json`): a file of results: a row per operator with how many comparisons were right, a row per target that
was measured, a row per timing. Nothing is measured here. Rejected: files of different devices.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench import machine, results
from bench.results import Row, Run
from bench.target_table import default_path, parser_of
from lmfast_kernels.check_report import Report, targets


def read(paths: Sequence[Path]) -> tuple[Report, list[Row]]:
    """The operators' results of all files of lmfast_kernels.check in one report, and the rows of all files of results.
    Raises SystemExit where their devices differ."""
    report, rows = Report(torch.device("cpu"), None, {}), []
    for path in paths:
        found = json.loads(path.read_text())
        if "rows" in found:
            run = results.read(path)
            rows += run.rows
            here = {"device": run.machine["gpu"], "commit": run.machine["commit"]}
        else:
            here = found.get("machine") or {"device": found["gpu"], "commit": found["commit"]}
        if report.machine and report.machine["device"] != here["device"]:
            raise SystemExit(
                f"{path}: measured on {here['device']}, other files on {report.machine['device']}"
            )
        commits = [*report.machine.get("commits", []), here["commit"]]
        report.machine = report.machine | here | {"commits": list(dict.fromkeys(commits))}
        report.ceilings |= found.get("ceilings", {})
        for operator, outcome in found.get("operators", {}).items():
            kept = report.operators.setdefault(operator, {"checks": [], "timings": [], "done": True})
            kept["checks"] += outcome["checks"]
            kept["timings"] += outcome["timings"]
    return report, rows


def rows_of(paths: Sequence[Path]) -> list[Row]:
    """The rows of these files."""
    report, rows = read(paths)
    return rows + list(report_rows(report))


def report_rows(report: Report) -> Iterator[Row]:
    for operator, outcome in report.operators.items():
        checks = [check for check in outcome["checks"] if "passed" in check]
        if checks:
            wrong = [check["what"] for check in checks if not check["passed"]]
            right, name = len(checks) - len(wrong), f"{operator}: right at real sizes"
            shown = f"{right} of {len(checks)} comparisons"
            yield Row(name, right / len(checks), shown, wrong="; ".join(wrong))
    for name, measured, must, aim in targets(report):
        if measured is not None:
            yield Row(name, measured, f"{measured:.3g}", must, aim)
    for operator, outcome in report.operators.items():
        for timing in outcome["timings"]:
            if "ms" not in timing:
                continue
            scale, unit = (1e12, "TFLOP/s") if timing["unit"] == "flops" else (1e9, "GB/s")
            shown = f"{timing['ms']:.4f} ms, {timing['rate'] / scale:,.1f} {unit}"
            if "fraction" in timing:
                shown += f", {timing['fraction']:.1%} of the measured ceiling"
            name = f"{operator} {timing['what']}: {timing['who']}"
            yield Row(name, timing["rate"], shown, data={"timing": timing})


def main() -> int:
    parser = parser_of("gpu_kernels", __doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument(
        "--host", type=Path, help="a file of results of the same machine, which describes the host"
    )
    arguments = parser.parse_args()
    report, rows = read(arguments.files)
    device = report.machine["device"]
    host = results.read(arguments.host).machine if arguments.host else machine.describe(device)
    described = host | {"commit": ", ".join(report.machine["commits"]), "dirty": False}
    names = {"bytes": "copy", "flops": "matmul bfloat16"}
    ceilings = {names.get(name, name): rate for name, rate in report.ceilings.items()}
    run = Run("gpu_kernels", described, rows + list(report_rows(report)), ceilings=ceilings)
    results.write(arguments.output or default_path("gpu_kernels", device), run)
    print("\n".join(row.line for row in run.rows))
    return 1 if any(row.wrong for row in run.rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
