"""What asynchronous checkpoints cost: `python -m bench.checkpoint_overhead [--ranks 2] [--rounds 6]`.

Starts that many ranks with torchrun, which train a model of 20M parameters with --parallel fsdp in one run of the real
loop. Blocks of 10 steps that begin with a checkpoint alternate with blocks without one (on, off, off, on, …), so that a
busy moment of the machine affects both alike. A block with a checkpoint contains the copy at its first step boundary and,
in the background, writing, flushing and hashing. Prints the seconds of a step in both and their ratio, with quartiles, and
exits with code 1 if the median is above the limit of issue 19. The files are written to a temporary folder of --folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.timing import Ratio, ratio
from bench.training_step import Silent, zipf_ids
from lmfast.data.batches import Batches
from lmfast.model.accounting import num_parameters
from lmfast.model.device import pick_device
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.checkpoint import newest_checkpoint
from lmfast.training.loop import train_loop
from lmfast.training.objectives import NextToken
from lmfast.training.parallel.ranks import Ranks, joined_ranks
from lmfast.training.resolve import batch_ramp, resolve
from lmfast.training.run import make_plan
from lmfast.training.run_plan import Hooks, Progress
from lmfast.training.saves import BackgroundSaves
from lmfast.training.sinks import Sinks
from lmfast.training.state import make_state
from lmfast.training.task import Rows, Task

LIMIT = 1.1
INTERVAL = 10
"""steps between checkpoints"""
WARM_UP = 2
"""blocks before the first that counts: the first checkpoint plans who writes what and allocates memory"""
SHAPE = {"vocab_size": 4096, "d_model": 384, "num_layers": 10, "num_heads": 6, "d_ff": 1024}  # 20.8M


def saves_in(block: int) -> bool:
    """Whether a block begins with a checkpoint: on, off, off, on, on, …"""
    return block % 4 in (0, 3)


class Overhead:
    """The hooks of the loop that save at the beginning of some blocks and note when each begins."""

    def __init__(self, saves: BackgroundSaves, progress: Progress):
        self.saves, self.progress = saves, progress
        self.begins: dict[int, float] = {}

    def at_boundary(self) -> bool:
        if self.progress.step % INTERVAL == 0:
            self.begins[self.progress.step // INTERVAL] = time.perf_counter()
        return False

    def save(self, progress: Progress) -> bool:
        return not saves_in(progress.step // INTERVAL) or self.saves.begin(progress)

    def seconds(self) -> dict[bool, list[float]]:
        """Seconds of a step in the blocks that count, {with a checkpoint: one for each block}."""
        found: dict[bool, list[float]] = {True: [], False: []}
        for block, began in self.begins.items():
            if block >= WARM_UP and block + 1 in self.begins:
                found[saves_in(block)].append((self.begins[block + 1] - began) / INTERVAL)
        return found


def measure(arguments: argparse.Namespace, folder: Path, ranks: Ranks) -> dict[bool, list[float]]:
    """Trains on this rank; the seconds of its steps."""
    device = pick_device(arguments.device)
    ranks.use_device(device)
    # The blocks that count, and the step that begins the one after them.
    steps = INTERVAL * (WARM_UP + 2 * arguments.rounds) + 1
    changes = SHAPE | {
        "context_length": arguments.context_length,
        "batch_size": arguments.rows * ranks.world_size,
        "max_iters": steps,
        "checkpoint_interval": INTERVAL,
        "log_interval": steps,
        "eval_interval": 0,
        "device": device.type,
        "bf16": device.type == "cuda",
        "parallel": "fsdp",
    }
    settings = resolve(replace_flat(TrainSettings(), changes), SHAPE["vocab_size"])
    batches = Batches(
        zipf_ids(SHAPE["vocab_size"], 1_000_000),
        batch_ramp(settings.optimizer),
        settings.model.context_length,
        0,
    )
    objective, sinks = NextToken(), Sinks(Silent())
    task = Task(objective, batches)
    state = make_state(
        settings, task, None, None, device, ranks, "fsdp" if ranks.world_size > 1 else "single"
    )
    overhead = Overhead(BackgroundSaves(folder, state, 2, sinks, ranks), state.progress)
    hooks = Hooks(checkpoint=overhead.save, background=overhead.saves, should_stop=overhead.at_boundary)
    plan = make_plan(settings, Rows(settings.model.context_length), 1.0)
    train_loop(
        state.model, state.optimizer, objective, objective.loss, batches, plan, state.progress, sinks, hooks, ranks,
        None, state.sharded,
    )  # fmt: skip
    if ranks.is_first:
        assert newest_checkpoint(folder / "checkpoints") is not None, "no checkpoint was written"
        print(f"{num_parameters(settings.model) / 1e6:.1f}M parameters, {ranks.world_size} ranks, {device}")
    return overhead.seconds()


def report(seconds: dict[bool, list[float]]) -> tuple[str, Ratio]:
    """(text, step time with checkpoints relative to none)."""
    found = ratio(seconds[True], seconds[False])
    with_, without = (sorted(seconds[key])[len(seconds[key]) // 2] for key in (True, False))
    line = (
        f"seconds per step: {with_:.4f} with a checkpoint every {INTERVAL} steps, {without:.4f} without; relative {found}, "
        f"limit {LIMIT}"
    )
    return line, found


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6, help="pairs of blocks")
    parser.add_argument("--rows", type=int, default=4, help="of a rank in each step")
    parser.add_argument("--context-length", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", help="where the checkpoints are written; default: the temporary folder")
    return parser.parse_args(words)


def main() -> None:
    words = sys.argv[1:]
    arguments = parse_arguments(words)
    if "WORLD_SIZE" not in os.environ:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            start = ["-m", "torch.distributed.run", f"--nproc-per-node={arguments.ranks}"]
            command = [sys.executable, *start, "-m", "bench.checkpoint_overhead", *words, "--folder", folder]
            raise SystemExit(subprocess.run(command).returncode)
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    with joined_ranks() as ranks:
        seconds = measure(arguments, Path(arguments.folder), ranks)
    if ranks.is_first:
        line, found = report(seconds)
        print(line)
        if found.median > LIMIT:
            raise SystemExit(f"relative {found} is above the limit {LIMIT}")


if __name__ == "__main__":
    main()
