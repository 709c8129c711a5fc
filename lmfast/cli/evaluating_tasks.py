"""`lmfast evaluate --tasks` after its settings were checked: evaluates a model on lm-eval's tasks."""

import importlib.metadata
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lmfast.cli.progress import progress
from lmfast.cli.task_options import check_include_path, check_package, lm_eval_imported, task_names
from lmfast.errors import UserError
from lmfast.evaluation.task_results import metrics_of, result_path, table, write_results
from lmfast.evaluation.task_tokenizer import check_tokenizer
from lmfast.files import check_writable
from lmfast.model.device import autocast, make_deterministic, pick_device
from lmfast.settings import selected_precision
from lmfast.training.checkpoint import Checkpoint, find_checkpoint
from lmfast.training.loading import load_checkpoint
from lmfast.training.report import write_report
from lmfast.training.run_folder import load_tokenizer, newest_run

if TYPE_CHECKING:
    from lmfast.evaluate import EvaluateSettings


def measure_tasks(settings: "EvaluateSettings") -> dict[str, float]:
    """As `lmfast.evaluate.evaluate_run`, with --tasks: {"task/metric": value}."""
    names = task_names(settings.tasks or "", "tasks")
    check_include_path(settings.include_path, "include_path")
    device = pick_device(settings.device)
    checkpoint = find_checkpoint(Path(settings.run) if settings.run is not None else newest_run())
    tokenizer = load_tokenizer(checkpoint.run)
    if tokenizer is None:
        raise UserError(
            f"{checkpoint.run}: the run has no tokenizer and cannot read tasks; import or train it with one"
        )
    if settings.json is not None:
        check_writable(settings.json)
    check_tokenizer(tokenizer, settings.apply_chat_template)
    check_package("--tasks")
    print(f"loading lm-eval and {', '.join(names)} …", file=sys.stderr)
    with lm_eval_imported("--tasks"):
        from lmfast.evaluation.task_model import TaskModel
        from lmfast.evaluation.tasks import load_tasks, run_tasks

    tasks = load_tasks(names, settings.include_path, settings.num_fewshot)
    make_deterministic(device)
    model, _, _ = load_checkpoint(checkpoint, device)
    began = time.perf_counter()
    with (
        autocast(device, selected_precision(settings)),
        progress(scoring="texts", generating="texts") as update,
    ):
        evaluated = TaskModel(model, tokenizer, update)
        found = run_tasks(evaluated, tasks, settings.limit, settings.apply_chat_template)
    seconds = time.perf_counter() - began
    if evaluated.shortened:
        print(
            f"note: {evaluated.shortened:,} of {evaluated.requests:,} texts were longer than the context of "
            f"{evaluated.max_length} and lost their beginning",
            file=sys.stderr,
        )
    if evaluated.capped_at is not None:
        print(
            f"note: at most {evaluated.capped_at} tokens were generated, half of the context; a task allows more",
            file=sys.stderr,
        )
    metrics = metrics_of(found)
    saved = _save(settings, names, checkpoint, found, [metric._asdict() for metric in metrics], seconds)
    print(table(metrics))
    print(f"{checkpoint.path} in {seconds:.1f} s; {saved}")
    return {f"{metric.task}/{metric.metric}": metric.value for metric in metrics}


def _save(
    settings: "EvaluateSettings",
    names: list[str],
    checkpoint: Checkpoint,
    found: dict,
    metrics: list[dict],
    seconds: float,
) -> Path:
    """Writes the results into the run folder and to --json, then the run's report."""
    options = ("num_fewshot", "limit", "apply_chat_template", "bf16", "fp16")
    chosen = {"tasks": names} | {name: getattr(settings, name) for name in options}
    content = {
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "settings": chosen,
        "metrics": metrics,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "seconds": seconds,
        **{name: value for name, value in found.items() if name not in ("configs", "samples")},
    }
    path = result_path(checkpoint.run, checkpoint.path.name, chosen)
    write_results(path, content)
    if settings.json is not None:
        write_results(Path(settings.json), content)
    if (checkpoint.run / "metrics.jsonl").is_file():
        write_report([checkpoint.run], checkpoint.run / "report.html")
    return path
