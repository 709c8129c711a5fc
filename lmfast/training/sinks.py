"""Outputs of a run's metrics: console, metrics.jsonl, TensorBoard, W&B. The loop uses only `Sinks`.

A line of metrics has step, tokens, seconds and the values measured at that step: train_loss, val_loss, bits_per_byte,
learning_rate, grad_norm, tokens_per_second, mfu; skipped_steps since the previous line; with fp16 loss_scale and overflows
(steps skipped because of it); recompiles of the compiled step; with experts expert_load_max,
expert_load_min and load_balance_loss (load_balance.py); for samples distinct_1 to known_words
(lmfast/data/text_statistics.py); for tasks TASK/METRIC (task_metrics.py). Losses are in nats per token; seconds include the
time before the run was resumed.
"""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lmfast.errors import UserError


class Sink(Protocol):
    """A place for a run's numbers and texts. Raises OSError where it cannot write."""

    def log(self, metrics: dict[str, Any]) -> None:
        """One line of metrics, as in this module's docstring: finite numbers by name, `step` among them."""
        ...

    def text(self, step: int, title: str, body: str) -> None:
        """A text of the model after `step`; title: what kind of text it is, such as "sample"."""
        ...

    def close(self) -> None:
        """Writes what is left; called once, after the last line."""
        ...


class Sinks:
    """Sends everything to every sink; `message` goes to the console only.

    If a sink cannot write (a full disk), reports it in one line and tries again next time, so that training continues.
    """

    def __init__(self, console: "ConsoleSink | None" = None, *others: Sink):
        """Without a console nothing is written, as on every rank except 0."""
        self.console, self.all = console, [console, *others] if console is not None else []
        self.failing: set[int] = set()

    def log(self, metrics: dict[str, Any]) -> None:
        self._each(lambda sink: sink.log(metrics))

    def text(self, step: int, title: str, body: str) -> None:
        self._each(lambda sink: sink.text(step, title, body))

    def message(self, line: str) -> None:
        if self.console is not None:
            self.console.message(line)

    def sync(self) -> None:
        """Flushes metrics.jsonl to disk, so that a checkpoint is never ahead of it."""
        self._each(lambda sink: sink.sync() if isinstance(sink, JSONLSink) else None)

    def close(self) -> None:
        self._each(lambda sink: sink.close())

    def _each(self, act: Callable[[Sink], None]) -> None:
        for number, sink in enumerate(self.all):
            try:
                act(sink)
            except OSError as error:
                if number == 0:
                    raise
                if number not in self.failing:
                    self.message(
                        f"{error.filename or type(sink).__name__} cannot be written ({error.strerror}); the run continues"
                    )
                self.failing.add(number)
            else:
                self.failing.discard(number)


class ConsoleSink:
    """A progress bar with the latest metrics on a terminal, plain lines elsewhere."""

    def __init__(
        self,
        max_iters: int | None,
        start: int = 0,
        max_minutes: float | None = None,
        compiling: bool = False,
        console: Console | None = None,
    ):
        """compiling: whether the first step compiles."""
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.max_iters, self.max_minutes = max_iters, max_minutes
        self.bar = None
        if self.console.is_terminal:
            self.bar_width = 24 if self.console.width >= 120 else 10
            columns = (
                TextColumn("{task.fields[place]}"),
                BarColumn(bar_width=self.bar_width),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console)
            numbers = "first step, compiling" if compiling else "first step"
            self.task = self.bar.add_task("train", total=1.0, place=self._place(start), numbers=numbers)
            self.bar.start()

    def log(self, metrics: dict[str, Any]) -> None:
        line = format_metrics(metrics)
        if not line:  # tasks and samples print their own
            return
        if self.bar is None or "val_loss" in metrics:
            self.console.print(f"{self._place(metrics['step'])}  {line}", markup=False)
        if self.bar is not None:
            steps = metrics["step"] / self.max_iters if self.max_iters else 0.0
            minutes = metrics["seconds"] / 60 / self.max_minutes if self.max_minutes else 0.0
            place = self._place(metrics["step"])
            space = self.console.width - len(place) - self.bar_width - len(" " * 3 + "100:00:00")
            numbers = fit_width(line, space)
            self.bar.update(self.task, completed=max(steps, minutes), place=place, numbers=numbers)

    def _place(self, step: int) -> str:
        return f"step {step}" if self.max_iters is None else f"step {step}/{self.max_iters}"

    def text(self, step: int, title: str, body: str) -> None:
        self.console.print(f"sample at step {step}: {' '.join(body.split())}", markup=False)

    def message(self, line: str) -> None:
        self.console.print(line, markup=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class JSONLSink:
    """metrics.jsonl, one object per line, unbuffered; texts as samples/step_NNNNNNNN.txt.

    Lines that did not fit on a full disk are kept and written later; a line is never written partially.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        self.pending: list[bytes] = []

    def log(self, metrics: dict[str, Any]) -> None:
        self.pending.append(json.dumps(metrics).encode() + b"\n")
        self._write()

    def text(self, step: int, title: str, body: str) -> None:
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        (samples / f"step_{step:08d}.txt").write_text(body + "\n", encoding="utf-8")

    def sync(self) -> None:
        self._write()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        try:
            self._write()
        finally:
            self.file.close()

    def _write(self) -> None:
        while self.pending:
            size, line = os.fstat(self.file.fileno()).st_size, self.pending[0]
            try:
                written = self.file.write(line)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self.file.truncate(size)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self.pending.pop(0)


class TensorBoardSink:
    """Event files under the run folder's tensorboard/."""

    def __init__(self, folder: Path, start: int = 0):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--tensorboard needs the package tensorboard, which is not installed; run `pip install tensorboard`"
            ) from None
        self.writer: Any = SummaryWriter(
            str(folder / "tensorboard"), purge_step=start + 1 if start else None
        )  # steps after the checkpoint will be logged again

    def log(self, metrics: dict[str, Any]) -> None:
        for name, value in metrics.items():
            if name != "step":
                self.writer.add_scalar(name, value, metrics["step"])

    def text(self, step: int, title: str, body: str) -> None:
        self.writer.add_text(title, body, step)

    def close(self) -> None:
        self.writer.close()


class WandbSink:
    """A Weights & Biases run; a resumed training continues the same W&B run."""

    def __init__(
        self,
        folder: Path,
        mode: Literal["online", "offline"],
        project: str,
        name: str | None,
        entity: str | None,
        config: dict[str, Any],
    ):
        try:
            import wandb
        except ImportError:
            raise UserError(
                "--wandb needs the package wandb, which is not installed; run `pip install wandb`, or use --no-wandb"
            ) from None
        self.wandb = wandb
        id_file = folder / "wandb_id"
        run_id = id_file.read_text().strip() if id_file.exists() else None
        try:
            self.run = wandb.init(
                project=project, name=name or folder.name, entity=entity, config=config, dir=str(folder),
                mode=mode, id=run_id, resume="allow" if run_id else None,
            )  # fmt: skip
        except (wandb.Error, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"wandb cannot start ({reason}); log in with `wandb login`, or use --wandb offline"
            ) from None
        id_file.write_text(self.run.id)

    def log(self, metrics: dict[str, Any]) -> None:
        self.run.log({k: v for k, v in metrics.items() if k != "step"}, step=metrics["step"])

    def text(self, step: int, title: str, body: str) -> None:
        self.run.log({title: self.wandb.Html(f"<pre>{_escape(body)}</pre>")}, step=step)

    def close(self) -> None:
        self.run.finish()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fit_width(line: str, width: int) -> str:
    """Shortens a line of `format_metrics` to `width` characters by removing the least important metrics first."""
    parts = line.split("  ")
    for word in ("norm", "lr", "scale", "recompiles", "MFU", "bits/byte", "tok/s", "val loss"):
        if len("  ".join(parts)) > width:
            parts = [part for part in parts if word not in part]
    return "  ".join(parts)


def format_metrics(metrics: dict[str, Any]) -> str:
    """Metrics as one line of text."""
    parts: list[str] = []
    if "train_loss" in metrics:
        parts.append(f"loss {metrics['train_loss']:.4f}")
    if "learning_rate" in metrics:
        parts.append(f"lr {metrics['learning_rate']:.2e}")
    if "grad_norm" in metrics:
        parts.append(f"norm {metrics['grad_norm']:.2f}")
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tok/s")
    if "mfu" in metrics:
        parts.append(f"MFU {metrics['mfu']:.1%}")
    if "val_loss" in metrics:
        parts.append(f"val loss {metrics['val_loss']:.4f}")
    if "bits_per_byte" in metrics:
        parts.append(f"{metrics['bits_per_byte']:.4f} bits/byte")
    if "loss_scale" in metrics:
        parts.append(f"scale {metrics['loss_scale']:g}")
    if metrics.get("recompiles"):
        parts.append(f"{metrics['recompiles']} recompiles")
    return "  ".join(parts)
