"""What a report shows of a run folder: metrics.jsonl and run.json. Lines and values that are not numbers are ignored."""

from pathlib import Path
from typing import Any

from lmfast.training.run_folder import read_facts, read_metrics


class RunMetrics:
    """The metrics and facts of a run."""

    def __init__(self, folder: Path):
        self.name, self.folder = folder.name or str(folder), folder
        self.metrics = [_numbers(line) for line in read_metrics(folder) if isinstance(line, dict)]
        facts = read_facts(folder)
        self.facts: dict[str, Any] = facts if isinstance(facts, dict) else {}

    def series(self, x: str, y: str) -> tuple[list, list]:
        points = [(m[x], m[y]) for m in self.metrics if x in m and y in m]
        return [p[0] for p in points], [p[1] for p in points]

    def last(self, name: str) -> Any:
        return next((m[name] for m in reversed(self.metrics) if name in m), None)

    def median(self, name: str) -> Any:
        """The median of a metric, which is robust against slow steps on a busy machine."""
        values = sorted(m[name] for m in self.metrics if name in m)
        return values[len(values) // 2] if values else None


def _numbers(line: dict) -> dict:
    """The numbers in a line of metrics; another program may have added text or null."""
    return {name: value for name, value in line.items() if isinstance(value, int | float)}
