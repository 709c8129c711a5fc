"""python -m lmfast.quickstart: train a small story-telling model from scratch.

Runs configs/recipes/quickstart.yaml: built-in stories, tokenizer and token files → training → text, in data/stories/ and
runs/quickstart/. Reuses finished stages; --fresh starts over.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lmfast.cli.arguments import Parser
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.cli.recipes.processes import Launch, launch
from lmfast.cli.recipes.running import Options, run_recipe
from lmfast.files import clear_folder, folder_lock
from lmfast.training.run_folder import lock_run, read_facts, read_metrics

FOLDER, CORPUS = Path("runs/quickstart"), Path("data/stories")


def build_parser() -> Parser:
    parser = Parser(
        prog="lmfast quickstart",
        description="Train a small story-telling model from scratch, in minutes. Writes data/stories/ and "
        "runs/quickstart/. If interrupted, rerun the same command to resume.",
    )
    parser.add_argument("--fresh", action="store_true", help="start over instead of reusing finished stages")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        if code := quickstart(arguments.fresh):
            sys.exit(code)


def quickstart(fresh: bool, start: Launch = launch) -> int:
    """Runs every unfinished stage; returns the exit code. start: runs one stage."""
    began = time.perf_counter()
    if fresh and FOLDER.exists():
        with lock_run(FOLDER):
            clear_folder(FOLDER)
    if fresh and CORPUS.exists():
        with folder_lock(CORPUS):
            clear_folder(CORPUS)
    if code := run_recipe(Options("quickstart"), start):
        return code
    _show(time.perf_counter() - began)
    return 0


def _show(seconds: float) -> None:
    metrics, floor = read_metrics(FOLDER), read_facts(FOLDER).get("floor_bits_per_byte")
    last = next(m for m in reversed(metrics) if "val_loss" in m)
    rates = sorted(m["tokens_per_second"] for m in metrics if "tokens_per_second" in m)
    line = f"validation loss {last['val_loss']:.4f} nats per token"
    if "bits_per_byte" in last and floor:
        ratio = last["bits_per_byte"] / floor
        line += f", {last['bits_per_byte']:.4f} bits per byte: {ratio:.2f} × the entropy of the corpus, {floor:.4f}"
    print(line)
    if rates:
        mfus = sorted(m["mfu"] for m in metrics if "mfu" in m)
        print(f"{rates[len(rates) // 2]:,.0f} tokens/s, MFU {mfus[len(mfus) // 2]:.0%} (medians)")
    print(f"{seconds / 60:.1f} minutes; the run is in {FOLDER}/: open {FOLDER}/report.html")
    print("next: lmfast generate --prompt 'One day, a small fox'   ·   lmfast train --help")


if __name__ == "__main__":
    main()
