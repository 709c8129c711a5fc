"""How long someone waits at the first call ever and in later processes: `python -m bench.first_seconds [--runs N]`.

The checkout's sources are copied to a temporary folder, without caches, and the user's cache is a new folder, so that
nothing has been compiled before. Prints the wall and processor seconds of issue 14's table: the first call, and the
quickest of N later processes (fewer disturbances; a busy machine shows in the difference of the two). Seconds of
`generate` end with its first token. On a CPU, with the libraries' own bytecode and files already read once.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.machine import ROOT
from lmfast.data.stories.corpus import write_stories

PROMPT = "Once upon a time"
SHAPE = "--vocab-size 4096 --context-length 256 --d-model 256 --num-layers 4 --num-heads 8 --d-ff 704"  # 5.3M
HELLO = "from lmfast import Tokenizer; Tokenizer.load('tok').encode('hello')"


class Seconds(NamedTuple):
    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.processor:.2f})"


class Place:
    """A fresh copy of the sources and the folder in which commands run."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("lmfast", "kernels", "configs"):
            shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
        paths = [str(folder / "src"), str(folder / "src" / "kernels")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def seconds(self, words: Sequence[str], until: int | None = None) -> Seconds:
        """Seconds of a Python command; until: of its first bytes of output, after so many. Errors end the benchmark."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *words], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            read = 0
            while chunk := os.read(child.stdout.fileno(), 1 << 16):
                read += len(chunk)
                if until is not None and read > until:
                    break
            if until is None:
                child.wait()
            wall = time.perf_counter() - began
            while os.read(child.stdout.fileno(), 1 << 16):
                pass
        if child.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {child.returncode}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Seconds(wall, sum(after[:2]) - sum(before[:2]))

    def quickest(self, runs: int, words: Sequence[str], until: int | None = None) -> Seconds:
        return min(self.seconds(words, until) for _ in range(runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", type=int, default=5, metavar="N", help="later processes per row (default: 5)"
    )
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        write_stories(place.folder / "text.txt", 1_000_000, seed=1)
        (place.folder / "small.txt").write_bytes((place.folder / "text.txt").read_bytes()[:1000])
        command = ["-m", "lmfast"]
        train = "tokenizer train --input text.txt --output tok --vocab-size 4096".split()
        encode = "tokenizer encode --input small.txt --output small.npy --tokenizer tok".split()
        place.seconds(["-c", "import numba, torch, regex"])  # files of libraries are in memory from here on
        rows = [("tokenizer train, 1 MB, first call ever", place.seconds([*command, *train]), 5.0, 3.0)]
        shutil.rmtree(place.folder / "src")
        place = Place(place.folder)
        first = place.seconds([*command, *encode])
        rows.append(("tokenizer encode, 1 kB, first call ever", first, 1.0, 0.4))
        rows.append(("the same, later", place.quickest(runs, [*command, *encode]), 0.5, 0.4))
        rows.append(("load a tokenizer, encode 'hello'", place.quickest(runs, ["-c", HELLO]), 0.3, 0.15))
        place.seconds(
            [*command, *"tokenizer encode --input text.txt --output ids.npy --tokenizer tok".split()]
        )
        run = "train --train-data ids.npy --val-data ids.npy --tokenizer tok --out-dir run --max-iters 1 --no-compile"
        place.seconds([*command, *run.split(), *SHAPE.split(), "--device", "cpu"])
        generate = [*command, "generate", "--checkpoint", "run", "--prompt", PROMPT, "--max-tokens", "4"]
        generate += ["--no-stop", "--device", "cpu"]
        first = place.seconds(generate, len(PROMPT))
        rows.append(("generate, 5.3M, first token, first call ever", first, None, None))
        later = place.quickest(runs, generate, len(PROMPT))
        rows.append(("the same, later", later, 2.0, 1.2))
        torch_alone = place.quickest(runs, ["-c", "import torch"])
        rows.append(("`import torch` alone, for comparison", torch_alone, None, None))
    print("| | wall (processor) seconds | must | aim |\n|---|---|---|---|")
    for name, seconds, must, aim in rows:
        print(f"| {name} | {seconds} | {must or ''} | {aim or ''} |")


if __name__ == "__main__":
    main()
