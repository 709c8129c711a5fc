"""How fast the recipes for one GPU train: `python -m bench.gpu_recipes [--minutes M] [--only CONFIG …]`.

Each config of CONFIGS as `lmfast train` runs it, with its batches, accumulation, optimizer and compiled step, for M
minutes on the built-in stories, without evaluations (the model keeps its vocabulary; stories use 4,922 of its ids). Out:
a row per config, the median of the logged rates after the first, and MFU. In: the data of `python -m bench.gpu_run
--prepare --config NAME`, made first where it is missing. `--rehearse` runs tiny models in float32.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from bench.gpu_run import DATA, TEXT_BYTES, TINY, make_data
from bench.gpu_training_job import clean, read_config
from bench.results import Row
from bench.target_table import attempt, measure, parser_of
from lmfast.cli.pretraining import run
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.task import Start

# Thousand tokens per second, estimated before the first run at 40 to 45 % MFU on an H100.
CONFIGS = {"speedrun_124m": "463-521", "owt_124m_leaderboard": "560-630"}
SHORT = {
    "log_interval": 2,
    "eval_interval": 0,
    "eval_batches": 1,
    "sample_interval": 0,
    "checkpoint_interval": 0,
}


def row(config: str, settings: TrainSettings, corpus, folder: Path) -> Row:
    """Median tokens/s and MFU of the logged lines after the first, which contains compilation."""
    run(settings, Start(folder), corpus)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = [line for line in lines if "tokens_per_second" in line][1:]
    if len(timed) < 2:
        raise ValueError("the run logged fewer than two rates of compiled steps; give it more minutes")
    rates = sorted(line["tokens_per_second"] for line in timed)
    mfu = statistics.median(line["mfu"] for line in timed)
    shown = (
        f"{statistics.median(rates):,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f}) tok/s, {mfu:.1%} MFU, "
        f"{lines[-1]['step']} steps, loss {timed[-1]['train_loss']:.3g}"
    )
    predicted = f"{CONFIGS[config]} thousand"
    return Row(name(config), statistics.median(rates), shown, predicted=predicted, data={"metrics": lines})


def name(config: str) -> str:
    return f"{config}: tokens per second"


def rows(configs: list[str], minutes: float, folder: Path, rehearse: bool) -> Iterator[Row]:
    for config in configs:
        settings, data, text_bytes = read_config(config), DATA, TEXT_BYTES
        short = SHORT | {"max_minutes": minutes, "lr_decay_iters": None}
        if rehearse:
            short |= TINY | {"total_tokens": None, "max_iters": 12, "log_interval": 2, "warmup_iters": 0}
            data, text_bytes = folder / "data", 200_000
        settings = replace_flat(settings, short)

        def make(config=config, settings=settings, data=data, text_bytes=text_bytes) -> Row:
            return row(config, *make_data(settings, data, text_bytes), folder / config)

        yield attempt(name(config), make)
        clean()


def main() -> int:
    parser = parser_of("gpu_recipes", __doc__, list(CONFIGS))
    parser.add_argument("--minutes", type=float, default=1.1, help="that each run may take, without its data")
    parser.add_argument("--rehearse", action="store_true", help="tiny models in float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = rows(arguments.only or list(CONFIGS), arguments.minutes, Path(temporary), arguments.rehearse)
        return measure("gpu_recipes", found, arguments.output, gpu=machine.gpu_name())


if __name__ == "__main__":
    raise SystemExit(main())
