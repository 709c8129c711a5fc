"""What the page of a sweep reads from the run folder of a trial. A folder without files has no metrics."""

from dataclasses import dataclass

from lmfast.sweeps.groups import finite
from lmfast.sweeps.trials import Results, Trial
from lmfast.training.run_metrics import RunMetrics

Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class TrialRun:
    """A trial with its metrics. Curves hold only finite numbers."""

    trial: Trial
    metrics: RunMetrics

    @property
    def tokens(self) -> float | None:
        return finite(self.metrics.last("tokens"))

    @property
    def seconds(self) -> float | None:
        return finite(self.metrics.last("seconds"))

    @property
    def tokens_per_second(self) -> float | None:
        return finite(self.metrics.median("tokens_per_second"))

    @property
    def parameters(self) -> float | None:
        return finite(self.metrics.facts.get("parameters"))

    def curve(self, x: str, metric: str) -> Curve:
        points = [(a, b) for a, b in zip(*self.metrics.series(x, metric), strict=True)]
        points = [(a, b) for a, b in points if finite(a) is not None and finite(b) is not None]
        return [a for a, _ in points], [b for _, b in points]


def read_trials(results: Results) -> dict[int, TrialRun]:
    """The runs of the trials, by number."""
    return {trial.number: TrialRun(trial, RunMetrics(trial.folder)) for trial in results.trials}
