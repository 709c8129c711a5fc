"""The cost of a run, as estimated before and after its first steps."""

import pytest

from lmfast.data.batch_ramp import BatchRamp
from lmfast.model.accounting import training_flops_per_token
from lmfast.model.communication import recomputation_flops
from lmfast.model.parallel_memory import Layout, rank_memory
from lmfast.settings import TrainSettings, replace_flat
from lmfast.train import train
from lmfast.training.forecast import Forecast, estimate_lines, schedule_warnings, time_left
from lmfast.training.resolve import resolve
from lmfast.units import duration

ONE = Layout()


def resolved(**values):
    return resolve(replace_flat(TrainSettings(), values), 300)


def test_the_defaults_on_two_cores_are_called_unrealistic():
    settings = resolved()
    tokens = 100_000 * 32 * settings.model.context_length
    peak = 2e11
    lines = estimate_lines(settings, 1024, 32, tokens, peak, ONE, 8 * 10**9, on_cpu=True)
    seconds = tokens * training_flops_per_token(settings.model, 1024) / (0.4 * peak)
    assert f"{duration(seconds)} at 40% MFU" in lines[0] and "GB of memory" in lines[0]
    assert "the device has only 8 GB" in lines[1] and "not realistic on this device" in lines[2]
    assert len(estimate_lines(settings, 1024, 32, 10**6, 1e15, ONE, 10**12, on_cpu=False)) == 1
    assert "MFU" not in estimate_lines(settings, 1024, 32, None, 1e15, ONE, None, on_cpu=False)[0]


def test_the_estimate_is_that_of_the_layout_and_of_what_is_recomputed():
    def gigabytes(layout=ONE, **values):
        found = estimate_lines(resolved(**values), 1024, 8, None, 1e15, layout, None, on_cpu=False)
        return float(found[0].split()[1])

    whole, shards = gigabytes(), gigabytes(Layout("fsdp", 8))
    block, selective = (gigabytes(activation_checkpointing=kind) for kind in ("block", "selective"))
    assert whole > selective > block and whole > shards
    assert gigabytes(Layout("fsdp", 8), grad_accumulation=2) > shards  # accumulates whole gradients
    line = estimate_lines(resolved(), 1024, 8, None, 1e15, ONE, 10**9, on_cpu=False)[1]
    assert "add --activation-checkpointing block, or use a smaller model" in line


def test_recomputation_takes_time():
    settings = resolved(activation_checkpointing="block")
    line = estimate_lines(settings, 1024, 8, 10**12, 1e14, ONE, None, on_cpu=False)[0]
    training = 1024 * training_flops_per_token(settings.model, 1024)
    mfu = 0.4 / (1 + recomputation_flops(settings.model, 1024, "block") / training)
    seconds = 10**12 * training / 1024 / (mfu * 1e14)
    assert (
        f"{duration(seconds)} at {mfu:.0%} MFU, 40% with recomputation (measured rate" in line and mfu < 0.33
    )


def test_whole_gradients_that_do_not_fit_are_neither_counted_nor_warned_of():
    layout, settings = Layout("fsdp", 8), resolved(grad_accumulation=4)
    need, whole = (
        rank_memory(settings.model, 8, "fp32", layout, 1024, whole_gradient=kept).total
        for kept in (False, True)
    )
    between = int((need + whole) / 2 / 0.9)
    lines = estimate_lines(settings, 1024, 8, None, 1e15, layout, between, on_cpu=False)
    assert lines == [f"estimate: {need / 1e9:.2g} GB of memory on each device"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_iters": 100}, "the run ends at step 100, within the warmup of 1000 steps, at 10%"),
        ({"max_iters": 2000}, None),
        (
            {"max_iters": 30, "warmup_iters": 1, "lr_decay_iters": 9, "schedule": "linear"},
            "0 from step 9 to the end of the run at step 30",
        ),
        ({"max_iters": 30, "warmup_iters": 1, "lr_decay_iters": 9}, None),
        ({"max_minutes": 5}, None),
    ],
    ids=str,
)
def test_schedules_cut_off_or_ending_early_give_a_warning(values, words):
    lines = schedule_warnings(resolved(**values).optimizer)
    assert [words in line for line in lines] == ([] if words is None else [True])


def test_the_time_left_counts_the_ramp_and_the_evaluations():
    batch = BatchRamp(2, 4, 1, 6)  # 1, 1, 2, 2, 3, 3, 4, 4 passes of 2 rows
    assert time_left(0.5, batch, 10, 2, 8, [(0, 0)]) == 0.5 * (2 + 2 + 3 + 3 + 4 + 4) * 2 * 10
    plain = BatchRamp(2)
    # Evaluations of 300 tokens, a third of the cost of training on them: at steps 20, 30 and 35.
    assert time_left(1.0, plain, 10, 10, 35, [(10, 300)]) == 25 * 20 + 3 * 100
    assert time_left(1.0, plain, 10, 10, 40, [(10, 300)]) == 30 * 20 + 3 * 100
    assert time_left(1.0, plain, 10, 10, 40, [(0, 300)]) == 30 * 20 + 100
    assert time_left(1.0, plain, 10, 10, 40, [(0, 300), (20, 30)]) == 30 * 20 + 100 + 2 * 10


def test_ten_steps_are_measured_without_the_first():
    lines, asked = [], []
    forecast = Forecast(lambda per_token, step: asked.append((per_token, step)) or 7200.0, lines.append)
    for step in range(4, 30):
        if forecast.wants(step):
            forecast(step, 100.0 + 2 * (step - 4), 64 * step)
    assert asked == [(2 / 64, 14)] and lines == ["measured: 32 tok/s, about 2 h 0 min left"]


def test_a_run_prints_its_estimated_and_actual_cost(corpus, tmp_path, capsys):
    flags = [*corpus.flags(), "--max-iters", "12", "--warmup-iters", "20", "--eval-interval", "0"]
    assert train([*flags, "--tokenizer", str(corpus.tokenizer), "--out-dir", str(tmp_path / "run")])
    lines = capsys.readouterr().out.splitlines()
    assert sum("estimate: " in line for line in lines) == sum("measured: " in line for line in lines) == 1
    assert (
        sum("the run ends at step 12, within the warmup of 20 steps, at 60%" in line for line in lines) == 1
    )
