"""A short run of a config on the built-in stories, as `lmfast train` makes it: `python -m bench.gpu_run [--minutes M]`.

Compilation, evaluation, a sample, a checkpoint and the report are in it. Out: a row with the time that the config's whole
number of tokens takes. Where the minutes do not suffice for all of them it is an extrapolation and called so: tokens over
the median of the logged rates (the first, of a step still being compiled, left out), plus what the run took besides. The
built-in stories stand in for TinyStories, whose loss is another matter; their vocabulary is smaller than the config's
(4,922 ids), the model is not. Where the stories cannot be made, random ids take their place, and the row says so.

Needs no tyro: settings are read from the file. In: a file of configs/ whose tokens are set.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from bench.gpu_training import read_config, zipf_ids
from bench.target_table import Row, add_output, measure
from lmfast.data.builtin import prepare
from lmfast.settings import TrainSettings, replace_flat
from lmfast.train import run

CONFIG = "tinystories_17m"
MINUTES, MINUTES_AIM = 6.0, 3.5  # issue 5's, of CONFIG on an H100
TEXT_BYTES = 20_000_000


def make_data(settings: TrainSettings, folder: Path):
    """(settings, corpus or None, what the data is): the stories, or files of random ids that the settings name then."""
    try:
        corpus = prepare(folder / "stories", TEXT_BYTES, TEXT_BYTES // 100, settings.model.vocab_size)
    except Exception as problem:
        import numpy as np

        names = {"train_data_path": folder / "train.npy", "val_data_path": folder / "valid.npy"}
        for path in names.values():
            np.save(path, zipf_ids(settings.model.vocab_size, TEXT_BYTES // 5))
        told = f"random ids, since the stories failed ({type(problem).__name__}: {problem})"
        return replace_flat(settings, {name: str(path) for name, path in names.items()}), None, told
    return (
        replace_flat(settings, {"train_data_path": None, "val_data_path": None}),
        corpus,
        "built-in stories",
    )


def whole_time(metrics: list[dict], took: float, total: int) -> tuple[float, float, bool]:
    """(seconds for `total` tokens, tokens a second of training, whether all of them were trained on) of a run's lines.

    took: seconds of the run from its call to its end."""
    rates = [line["tokens_per_second"] for line in metrics if "tokens_per_second" in line][1:]
    if not rates:
        raise SystemExit("the run logged no rate of compiled steps; give it more minutes")
    rate, tokens = statistics.median(rates), metrics[-1]["tokens"]
    if tokens >= total:
        return took, rate, True
    return max(0.0, took - tokens / rate) + total / rate, rate, False


def rows(config: str, minutes: float, folder: Path, changes: dict) -> Iterator[Row]:
    settings = read_config(config)
    settings, corpus, data = make_data(settings, folder)
    total = settings.optimizer.total_tokens
    settings = replace_flat(settings, {"max_minutes": minutes, **changes})
    began = time.perf_counter()
    run(settings, folder / "run", False, corpus)
    took = time.perf_counter() - began
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds, rate, whole = whole_time(metrics, took, total)
    last = {
        name: line[name]
        for line in metrics
        for name in ("train_loss", "val_loss", "recompiles")
        if name in line
    }
    gpu = machine.gpu_name()
    targets = (
        (MINUTES, MINUTES_AIM) if config == CONFIG and gpu is not None and "H100" in gpu else (None, None)
    )
    done = metrics[-1]["tokens"]
    shown = (
        f"{seconds / 60:.2f} min for {total / 1e6:,.2f}M tokens"
        f"{'' if whole else f', extrapolated from {done / 1e6:,.2f}M'}: {rate:,.0f} tok/s, "
        f"{took:.0f} s in all on {data}, " + ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    )
    yield Row(
        f"{config}: minutes for its tokens", *targets, seconds / 60, shown, at_most=True,
        data={"extrapolated": not whole, "tokens_per_second": rate, "seconds": took, "data": data, "metrics": metrics},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_run", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=CONFIG, help="of configs/")
    parser.add_argument("--minutes", type=float, default=0.75, help="that the run may take, its data aside")
    parser.add_argument("--keep", type=Path, help="where data and run stay; a temporary folder by default")
    add_output(parser)
    arguments = parser.parse_args()
    gpu = machine.gpu_name()
    described = machine.describe(gpu)
    name = f"gpu_run_{machine.slug(gpu or described['cpu'])}.json"
    with tempfile.TemporaryDirectory() as folder:
        found = rows(arguments.config, arguments.minutes, arguments.keep or Path(folder), {})
        measure(gpu or described["cpu"], described, found, arguments.output or name)


if __name__ == "__main__":
    main()
