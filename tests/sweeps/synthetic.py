"""Run folders and results of sweeps that look like real ones, for the tests of the page."""

import json
import math
import random

from lmfast.sweeps.trials import Results, Trial


def write_run(folder, final, tokens, diverges=False, parameters=3_400_000, batch=32, report=True, noise=0.0):
    """A run whose validation loss falls to `final`, or that diverges after a third of the tokens."""
    folder.mkdir(parents=True)
    rng, lines, steps = random.Random(str(folder.name)), [], 60
    for step in range(1, steps + 1):
        share = step / steps
        loss = final + (8.0 - final) * (math.exp(-7 * share) - math.exp(-7)) + 0.05 * (1 - share)
        if diverges:
            loss += math.exp(25 * (share - 0.3))
            if share > 0.45:
                loss = float("nan")
        line = {"step": step * 10, "tokens": int(tokens * share), "seconds": 90.0 * share}
        line |= {
            "train_loss": loss + rng.gauss(0, 0.03 + noise),
            "tokens_per_second": 20_000 + 40 * batch + step % 7,
        }
        if step % 5 == 0:
            line |= {"val_loss": loss, "bits_per_byte": loss / 3}
        lines.append(line)
        if math.isnan(loss):
            break
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"parameters": parameters}))
    if report:
        (folder / "report.html").write_text("<p>report</p>")
    return None if diverges else lines[-1]["val_loss"]


def results_of(folder, name, space, runs, variants=None, page=None, settings=None, **options):
    """runs: (values, final loss or None if it diverges, further arguments of write_run)."""
    trials = []
    for i, (values, final, more) in enumerate(runs):
        run = folder / "trials" / f"{i:04}"
        tokens = more.pop("tokens", 2_000_000)
        value = write_run(run, 3.0 if final is None else final, tokens, final is None, **more)
        state = "diverged" if final is None else "complete"
        message = "loss is not finite for 10 steps in a row, last at step 280" if final is None else ""
        trials.append(Trial(i, values, state, run, value, message))
    base = {"train_data_path": "data/train.npy", "d_model": 256, "total_tokens": 2_000_000, "seed": 0}
    return Results(
        name, options.get("metric", "val_loss"), options.get("direction", "minimize"), settings or base, space,
        variants or {}, page or {}, trials,
    )  # fmt: skip


def learning_rate_sweep(folder, **options):
    """7 rates × 2 batch sizes × 2 seeds; the largest rate diverges, the next one for one batch size and seed."""
    rates, sizes, seeds = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1], [32, 128], [0, 1]
    rng, runs = random.Random(0), []
    for rate in rates:
        for size in sizes:
            for seed in seeds:
                distance = math.log10(rate) - (-2.4 if size == 32 else -2.0)
                final = 1.75 + 0.16 * distance**2 + 0.05 * (size == 128) + rng.gauss(0, 0.008)
                if rate == 1e-1 or (rate == 3e-2 and size == 32 and seed == 1):
                    final = None
                runs.append(
                    ({"learning_rate": rate, "batch_size": size, "seed": seed}, final, {"batch": size})
                )
    space = {"learning_rate": rates, "batch_size": sizes, "seed": seeds}
    return results_of(folder, "learning rate", space, runs, **options)


def ablation(folder, seeds=3):
    """6 variants, the first of which is the reference."""
    finals = {
        "plain": 1.60,
        "qk_norm": 1.585,
        "post norm": 1.64,
        "no norm": None,
        "no position": 1.63,
        "muon": 1.52,
    }
    rng = random.Random(1)
    runs = [
        ({"variant": name, "seed": seed}, None if final is None else final + rng.gauss(0, 0.006), {})
        for name, final in finals.items()
        for seed in range(seeds)
    ]
    space = {"variant": list(finals), "seed": list(range(seeds))}
    variants = {name: {} if name == "plain" else {"norm": name} for name in finals}
    return results_of(folder, "ablations", space, runs, variants)


def scaling_sweep(folder, sizes=3, counts=3, noise=0.002, page=None):
    """Sizes × token counts whose losses follow L = 1.2 + 30 / N^0.3 + 250 / D^0.35."""
    rng, runs, variants = random.Random(2), [], {}
    tokens = [2_000_000 * 4**i for i in range(counts)]
    for i in range(sizes):
        parameters = 500_000 * 4**i
        variants[f"{parameters / 1e6:g}M"] = {"d_model": 64 * 2**i}
        for count in tokens:
            loss = (1.2 + 30 / parameters**0.3 + 250 / count**0.35) * (1 + noise * rng.gauss(0, 1))
            values = {"variant": f"{parameters / 1e6:g}M", "total_tokens": count}
            runs.append((values, loss, {"tokens": count, "parameters": parameters}))
    space = {"variant": list(variants), "total_tokens": tokens}
    page = {"x": "total_tokens", "fit": "scaling_law"} if page is None else page
    return results_of(folder, "scaling law", space, runs, variants, page)
