"""Makes a tiny training run cheap: 80 % of its time is not training."""

from pathlib import Path

import pytest


def make_runs_quick(patch: pytest.MonkeyPatch) -> None:
    """Runs write an empty report.html (no matplotlib) and do not measure the peak rate of the CPU.

    tests/training/test_report.py and tests/model/test_peaks.py test both; `trained_run` and test_quickstart.py run in full.
    """
    patch.setattr("lmfast.training.run.write_report", _empty_report)
    patch.setattr("lmfast.training.run.device_peak", lambda *_: (1e9, "not measured"))


def _empty_report(folders: list[Path], output: Path) -> None:
    output.write_text("")
