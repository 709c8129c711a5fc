"""A short run of a config on the built-in stories, as `lmfast train` makes it: `python -m bench.gpu_run [--minutes M]`.

Includes compilation, evaluations, samples, checkpoints and the report. Out: a row with the time for all of
the config's tokens. If the minutes do not suffice, it is an extrapolation and labelled as one: the time of the run,
including start, compilation and end, plus for each remaining token the seconds per token between two logged lines,
including evaluations, samples and checkpoints between them. The last line is not one of the two: a run
ended by the clock evaluates, samples and saves there in addition. The built-in stories replace TinyStories,
whose loss differs; their vocabulary is smaller than the config's (4,922 ids), the model is not.

`--prepare` makes the stories, the vocabulary and the token files in data/gpu and stops: a machine paid by the
minute need not do it (copy the folder there). Without it they are made first. `--warm` takes a few steps and measures
nothing. In: a file of configs/ whose tokens are set.
"""

import functools
import json
import statistics
import tempfile
import time
from pathlib import Path

from bench import machine
from bench.gpu_training_job import on_h100, read_config
from bench.results import Row
from bench.target_table import attempt, measure, parser_of
from lmfast.cli.pretraining import run
from lmfast.data.stories.builtin import prepare
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.task import Start

CONFIG = "tinystories_17m"
MINUTES, MINUTES_AIM, PREDICTED = 6.0, 3.5, "3-3.5"  # of CONFIG on an H100
TEXT_BYTES = 20_000_000
DATA = machine.ROOT / "data" / "gpu"
WARM_STEPS = 3
TINY = {
    "vocab_size": 300, "context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24,
    "batch_size": 4, "total_tokens": 6400, "compile": False, "bf16": False, "log_interval": 10, "eval_interval": 50,
    "eval_batches": 1, "warmup_iters": 2, "sample_interval": 0, "device": "cpu",
}  # fmt: skip


def make_data(
    settings: TrainSettings, folder: Path, text_bytes: int = TEXT_BYTES
) -> tuple[TrainSettings, object]:
    """(settings, corpus): the built-in stories with the config's vocabulary, reused where `folder` has them."""
    corpus = prepare(folder / "stories", text_bytes, text_bytes // 100, settings.model.vocab_size)
    return replace_flat(settings, {"train_data_path": None, "val_data_path": None}), corpus


def whole_time(metrics: list[dict], took: float, total: int) -> tuple[float, float, bool]:
    """(seconds for `total` tokens, tokens per second of training alone, whether it trained on all of them).

    metrics: the run's lines. took: seconds of the run from its call to its end."""
    lines = [line for line in metrics if "tokens_per_second" in line][1:]  # the first contains compilation
    whole = metrics[-1]["tokens"] >= total
    if not whole:
        lines = lines[:-1]  # and the last what every run does once, at its end
    if len(lines) < 2:
        raise ValueError("the run logged fewer than two rates of compiled steps; give it more minutes")
    rate = statistics.median(line["tokens_per_second"] for line in lines)
    if whole:
        return took, rate, True
    between = lines[-1]["seconds"] - lines[0]["seconds"]
    per_token = between / (lines[-1]["tokens"] - lines[0]["tokens"])
    return took + per_token * (total - metrics[-1]["tokens"]), rate, False


def row(config: str, minutes: float, folder: Path, settings: TrainSettings, corpus) -> Row:
    total = settings.optimizer.total_tokens
    settings = replace_flat(settings, {"max_minutes": minutes})
    began = time.perf_counter()
    run(settings, Start(folder / "run"), corpus)
    took = time.perf_counter() - began
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds, rate, whole = whole_time(metrics, took, total)
    last = {
        name: line[name]
        for line in metrics
        for name in ("train_loss", "val_loss", "recompiles")
        if name in line
    }
    judged = config == CONFIG and on_h100()
    must, aim, predicted = (MINUTES, MINUTES_AIM, PREDICTED) if judged else (None, None, "")
    done = metrics[-1]["tokens"]
    shown = (
        f"{seconds / 60:.2f} min for {total / 1e6:,.2f}M tokens"
        f"{'' if whole else f', extrapolated from {done / 1e6:,.2f}M'}: {rate:,.0f} tok/s, "
        f"{took:.0f} s in all, " + ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    )
    data = {"extrapolated": not whole, "tokens_per_second": rate, "seconds": took, "metrics": metrics}
    return Row(title(config), seconds / 60, shown, must, aim, at_most=True, predicted=predicted, data=data)


def title(config: str) -> str:
    return f"{config}: minutes for its tokens"


def main() -> int:
    parser = parser_of("gpu_run", __doc__)
    parser.add_argument("--config", default=CONFIG, help="of configs/")
    parser.add_argument("--minutes", type=float, default=0.75, help="that the run may take, without its data")
    parser.add_argument("--prepare", action="store_true", help=f"only make {DATA}")
    parser.add_argument("--warm", action="store_true", help=f"only take {WARM_STEPS} steps")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model in float32")
    parser.add_argument("--keep", type=Path, help="folder for the run (default: a temporary one)")
    arguments = parser.parse_args()
    settings, data, text_bytes = read_config(arguments.config), DATA, TEXT_BYTES
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        if arguments.rehearse:
            settings, data, text_bytes = replace_flat(settings, TINY), folder, 200_000
        settings, corpus = make_data(settings, data, text_bytes)
        if arguments.prepare:
            return 0
        if arguments.warm:
            changes = {"max_iters": WARM_STEPS, "total_tokens": None, "warmup_iters": 1}
            run(replace_flat(settings, changes), Start(folder / "run"), corpus)
            return 0
        make = functools.partial(row, arguments.config, arguments.minutes, folder, settings, corpus)
        found = (attempt(name, make) for name in [title(arguments.config)])  # made, and timed, by `measure`
        return measure("gpu_run", found, arguments.output, gpu=machine.gpu_name())


if __name__ == "__main__":
    raise SystemExit(main())
