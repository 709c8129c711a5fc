import json
import math
from pathlib import Path

from lmfast.sweeps.trial_runs import read_trials
from lmfast.sweeps.trials import Results, Trial


def results(*folders):
    trials = [Trial(i, {}, "complete", Path(folder), 1.0) for i, folder in enumerate(folders)]
    return Results("s", "val_loss", "minimize", {}, {}, {}, {}, trials)


def test_curves_hold_only_finite_numbers(tmp_path):
    lines = [
        {"step": s, "tokens": 10 * s, "seconds": s, "val_loss": 1 / s, "tokens_per_second": s}
        for s in (1, 2, 4)
    ]
    lines[1]["val_loss"] = math.nan
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "run.json").write_text('{"parameters": 5}')
    run = read_trials(results(tmp_path))[0]
    assert run.curve("tokens", "val_loss") == ([10, 40], [1.0, 0.25])
    assert (run.tokens, run.seconds, run.tokens_per_second, run.parameters) == (40, 4, 2, 5)


def test_missing_and_damaged_files_have_no_values(tmp_path):
    (tmp_path / "run.json").write_text("[1]")
    for run in read_trials(results(tmp_path, tmp_path / "absent")).values():
        assert run.curve("step", "val_loss") == ([], [])
        assert (run.tokens, run.seconds, run.tokens_per_second, run.parameters) == (None,) * 4
