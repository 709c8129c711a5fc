"""Imitates `lmfast train` for tests of the sweep: writes a run folder in milliseconds and resumes it.

The settings file of the trial decides what happens: learning_rate ≥ 1 diverges, dropout 0.9 fails, dropout 0.8 kills itself
with SIGKILL at step 2 each time it starts, dropout 0.7 only once. The loss is (log10(learning_rate) + 2)² + 1 + 1 / step.
STUB_STARTS: a file that gets a line per start and per step. STUB_SECONDS: time of a step.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import yaml


def main() -> None:
    config, folder = Path(sys.argv[2]), Path(sys.argv[4])
    settings = yaml.safe_load(config.read_text())
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    done = max((int(p.parent.name[5:]) for p in folder.glob("checkpoints/step_*/COMPLETE")), default=0)
    note(f"start {folder.name} {done}")
    if settings.get("dropout") == 0.9:
        print("error: dropout is 0.9; this stub does not like it", flush=True)
        sys.exit(2)
    folder.mkdir(parents=True, exist_ok=True)
    rate = float(settings["learning_rate"])
    metrics = folder / "metrics.jsonl"
    kept = [line for line in (metrics.read_text().splitlines() if metrics.exists() else [])]
    kept = [line for line in kept if json.loads(line)["step"] <= done]
    metrics.write_text("".join(f"{line}\n" for line in kept))
    for step in range(done + 1, int(settings["max_iters"]) + 1):
        time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
        if rate >= 1 and step == 3:
            print(
                "error: loss not finite for 10 steps in a row, up to step 3; restart with a lower learning_rate"
            )
            sys.exit(2)
        loss = (math.log10(rate) + 2) ** 2 + 1 + 1 / step
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, "train_loss": loss + 0.1, "val_loss": loss}) + "\n")
        checkpoint = folder / f"checkpoints/step_{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "COMPLETE").touch()
        note(f"step {folder.name} {step}")
        if step == 2 and settings.get("dropout") in (0.7, 0.8):
            if settings["dropout"] == 0.8:
                (checkpoint / "COMPLETE").unlink()
                checkpoint.rmdir()
            os.kill(os.getpid(), signal.SIGKILL)
        if stopped:
            sys.exit(130)


def note(line: str) -> None:
    if path := os.environ.get("STUB_STARTS"):
        with open(path, "a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
