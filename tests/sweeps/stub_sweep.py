"""`lmfast sweep` whose trials are stub_train.py; also as a command: python -m tests.sweeps.stub_sweep SWEEP.yaml …"""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmfast.cli import sweeping
from lmfast.sweep import main

STUB = Path(__file__).with_name("stub_train.py")


def stub_command(config: Path, folder: Path) -> list[str]:
    return [sys.executable, str(STUB), "--config", str(config), "--out-dir", str(folder)]


def use_stub() -> None:
    """Replaces the training command by the stub; prepares no stories, writes no page."""
    sweeping.train_command = stub_command  # type: ignore[assignment]
    sweeping.prepare = lambda **_: None  # type: ignore[assignment]
    sweeping.Console.write_page = lambda self: None  # type: ignore[method-assign]


class Stub:
    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str = "lr", **content) -> str:
        content = {"settings": {"max_iters": 4}} | content
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(path)

    def __call__(self, *flags: str, **content) -> int:
        """The exit code of a sweep with this content."""
        with pytest.raises(SystemExit) as ended:
            main([self.write(**content), *flags])
        return ended.value.code  # type: ignore[return-value]

    def starts(self) -> Counter[str]:
        """How often each trial was started."""
        path = self.folder / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith("start"))

    def steps(self) -> Counter[tuple[str, str]]:
        lines = (self.folder / "starts").read_text().splitlines()
        return Counter(tuple(line.split()[1:]) for line in lines if line.startswith("step"))  # type: ignore[misc]

    def trial(self, number: int) -> dict:
        return yaml.safe_load((self.folder / f"sweeps/lr/trials/{number:04d}.yaml").read_text())


GRID: dict[str, Any] = {"space": {"lr": ["1e-3", "1e-2"], "seed": [0, 1]}}


def start(path: str, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.sweeps.stub_sweep", path, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    use_stub()
    main()
