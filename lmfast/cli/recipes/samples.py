"""Runs a data stage on two short pieces of its text, to measure seconds and memory for its whole text.

Input: a DataJob, and the tokenizers that earlier jobs have trained. Output: {small_bytes, small_seconds, small_memory,
large_bytes, …}. A run that compiled tokenizer code is repeated, so that the stage itself finds it compiled. Raises OSError
if the command fails.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lmfast.cli.progress import PeakMemory
from lmfast.cli.recipes.jobs import DataJob
from lmfast.cli.recipes.processes import tree_memory
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.compiled.code_folder import COMPILING

SMALL, LARGE = 1_000_000, 10_000_000
"""bytes of text"""


def measure_data(job: DataJob, tokenizers: Mapping[str, Tokenizer]) -> dict[str, float]:
    """Seconds and peak memory in bytes of the stage on `SMALL` and on `LARGE` bytes, or all if there are fewer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = job.tokenizer
        if tokenizer in tokenizers:
            tokenizer = str(folder / "tokenizer")
            tokenizers[job.tokenizer].save(tokenizer)
        found: dict[str, float] = {}
        for size, limit in (("small", SMALL), ("large", LARGE)):
            if job.text:
                text = folder / "sample.txt"
                with open(job.text, "rb") as file:
                    data = file.read(limit)
                text.write_bytes(data)
                words = [*job.words, "--input", str(text), "--tokenizer", tokenizer]
                length = len(data)
            else:
                length = limit + limit // 10
                words = [*job.words, f"--train-bytes={limit}", f"--valid-bytes={limit // 10}"]
            run = _run(words, folder)
            if run.compiled:
                run = _run(words, folder)
            found |= {
                f"{size}_bytes": float(length), f"{size}_seconds": run.seconds, f"{size}_memory": run.memory
            }  # fmt: skip
        return found


class _Run(NamedTuple):
    seconds: float
    memory: float  # peak, in bytes
    compiled: bool  # whether it had to compile tokenizer code


def _run(words: list[str], folder: Path) -> _Run:
    """Runs a command with an output in `folder`."""
    messages, output = folder / "messages", folder / "output.npy"
    with messages.open("wb") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "lmfast", *words, "--output", str(output)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        with PeakMemory(lambda: tree_memory(process.pid), seconds=0.01) as memory:
            code = process.wait()
        seconds = time.perf_counter() - start
    if code:
        raise OSError(f"{' '.join(words)}: exit code {code}")
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)
    return _Run(seconds, float(memory.peak or 0), COMPILING in messages.read_text(errors="replace"))
