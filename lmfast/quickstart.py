"""python -m lmfast.quickstart: train a small story-telling model from scratch.

Built-in stories → tokenizer → token files → training → text, written to data/stories/ and runs/quickstart/. Reuses
finished stages; --fresh starts over.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lmfast.cli.arguments import Parser
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.files import clear_folder
from lmfast.generate import GenerateSettings, generate_text
from lmfast.train import train
from lmfast.training.run_folder import lock_run, read_metrics

FOLDER = Path("runs/quickstart")


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
        if not quickstart(arguments.fresh):
            sys.exit(130)


def quickstart(fresh: bool) -> bool:
    """Runs every unfinished stage; returns False if training was stopped."""
    start = time.perf_counter()
    from lmfast.data.stories.builtin import prepare

    if fresh and FOLDER.exists():
        with lock_run(FOLDER):
            clear_folder(FOLDER)
    print("1/3 corpus: stories from a built-in grammar, a byte-level BPE tokenizer, token files")
    corpus = prepare(fresh=fresh)
    print("2/3 training")
    if not train(["--config", "quickstart", "--out-dir", str(FOLDER)], corpus):
        return False
    print("3/3 a story from the model")
    _show(corpus, time.perf_counter() - start)
    return True


def _show(corpus, seconds: float) -> None:
    print(end="", flush=True)  # generate_text flushes each token: print what is still buffered first
    generate_text(GenerateSettings(checkpoint=str(FOLDER), prompt=("Once upon a time",), max_tokens=220))
    metrics = read_metrics(FOLDER)
    last = next(m for m in reversed(metrics) if "val_loss" in m)
    rates = sorted(m["tokens_per_second"] for m in metrics if "tokens_per_second" in m)
    line = f"validation loss {last['val_loss']:.4f} nats per token"
    if "bits_per_byte" in last:
        ratio = last["bits_per_byte"] / corpus.floor_bits_per_byte
        line += (
            f", {last['bits_per_byte']:.4f} bits per byte: {ratio:.2f} × the entropy of the corpus, "
            f"{corpus.floor_bits_per_byte:.4f}"
        )
    print(line)
    if rates:
        mfus = sorted(m["mfu"] for m in metrics if "mfu" in m)
        print(f"{rates[len(rates) // 2]:,.0f} tokens/s, MFU {mfus[len(mfus) // 2]:.0%} (medians)")
    print(f"{seconds / 60:.1f} minutes; the run is in {FOLDER}/: open {FOLDER}/report.html")
    print("next: lmfast generate --prompt 'One day, a small fox'   ·   lmfast train --help")


if __name__ == "__main__":
    main()
