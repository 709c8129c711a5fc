import io
import json
import sys

import pytest
from rich.console import Console

from lmfast.errors import UserError
from lmfast.training.sinks import ConsoleSink, JSONLSink, Sinks, TensorBoardSink, WandbSink, format_metrics

LINE = {
    "step": 20,
    "tokens": 40,
    "seconds": 1.5,
    "train_loss": 2.5,
    "val_loss": 2.75,
    "bits_per_byte": 1.25,
    "mfu": 0.5,
}


def console(terminal: bool):
    sink = ConsoleSink(100)
    sink.console = Console(
        file=io.StringIO(), force_terminal=terminal, width=200, highlight=False, soft_wrap=True
    )
    return sink


def test_plain_lines_without_a_terminal():
    sink = console(False)
    sink.log(LINE)
    sink.message("[bold] is not markup")
    assert sink.console.file.getvalue() == (
        "step 20/100  loss 2.5000  MFU 50.0%  val loss 2.7500  1.2500 bits/byte\n[bold] is not markup\n"
    )


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("compiling", [False, True])
def test_the_bar_and_the_time_left_fit_the_terminal(width, compiling):
    terminal = Console(
        file=io.StringIO(), force_terminal=True, width=width, highlight=False, color_system=None
    )
    sink = ConsoleSink(100_000, compiling=compiling, console=terminal)
    sink.close()
    assert terminal.file.getvalue().count("compiling") == (
        terminal.file.getvalue().count("first step") if compiling else 0
    )
    more = {"learning_rate": 1e-4, "grad_norm": 1.25, "tokens_per_second": 12345.6}
    sink.log({k: v for k, v in (LINE | more).items() if not k.startswith("val")})
    terminal.file.truncate(0)
    terminal.print(sink.bar.get_renderable())
    line = terminal.file.getvalue().strip("\0\n")
    bar = " " * (24 if width == 200 else 10)  # without colours the bar is drawn from 1 % on
    assert line.startswith(f"step 20/100000 {bar} loss 2.5000 ") and line.endswith(" -:--:--")
    assert ("12,346 tok/s" in line) == (width > 60) and ("norm 1.25" in line) == (width == 200)


def test_only_what_was_measured_is_shown():
    assert format_metrics({"step": 1, "tokens_per_second": 12345.6}) == "12,346 tok/s"


def test_jsonl_appends_one_object_per_line(tmp_path):
    for _ in range(2):
        sink = JSONLSink(tmp_path)
        sink.log(LINE)
        sink.text(20, "sample", "Once.")
        sink.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [LINE, LINE]
    assert (tmp_path / "samples/step_00000020.txt").read_text() == "Once.\n"


def test_everything_goes_to_every_sink(tmp_path):
    one, two = JSONLSink(tmp_path), console(False)
    sinks = Sinks(two, one)
    sinks.log(LINE)
    sinks.text(20, "sample", "A\nstory.")
    sinks.close()
    assert "sample at step 20: A story." in two.console.file.getvalue()
    assert (tmp_path / "metrics.jsonl").read_text()


class FullDisk:
    """A file on a disk with `space` bytes left."""

    def __init__(self, file, space):
        self.file, self.space = file, space

    def write(self, data):
        if not self.space:
            raise OSError(28, "No space left on device")
        taken, self.space = data[: self.space], max(0, self.space - len(data))
        return self.file.write(taken)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_loses_no_line_and_does_not_end_the_run(tmp_path):
    sink, shown = JSONLSink(tmp_path), console(False)
    sinks = Sinks(shown, sink)
    sinks.log(LINE)
    whole, size = sink.file, len((tmp_path / "metrics.jsonl").read_bytes())
    sink.file = FullDisk(whole, size + 10)  # the third line fits in part
    for step in (21, 22, 23):
        sinks.log(LINE | {"step": step})
    on_disk = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in on_disk.splitlines()] == [20, 21]
    assert shown.console.file.getvalue().count("No space left on device); the run continues") == 1
    sink.file.space = 10_000
    sinks.log(LINE | {"step": 24})
    sinks.sync()
    sinks.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [20, 21, 22, 23, 24]


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_an_absent_package_is_one_line(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UserError, match=f"needs the package {package}, which is not installed"):
        if package == "wandb":
            WandbSink(tmp_path, "offline", "p", None, None, {})
        else:
            TensorBoardSink(tmp_path)


def test_wandb_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    import wandb

    def fail(**options):
        raise wandb.errors.UsageError("api_key not configured\n(no-tty)")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(UserError, match=r"wandb cannot start \(api_key not configured \(no-tty\)\)"):
        WandbSink(tmp_path, "online", "p", None, None, {})


def test_wandb_resumes_the_same_run(tmp_path, monkeypatch):
    import wandb

    asked = []
    monkeypatch.setattr(
        wandb, "init", lambda **options: asked.append(options) or type("Run", (), {"id": "xyz"})()
    )
    for _ in range(2):
        WandbSink(tmp_path, "offline", "p", None, None, {})
    assert [(a["id"], a["resume"]) for a in asked] == [(None, None), ("xyz", "allow")]


def test_recompiles_are_shown_only_if_there_were_any():
    assert "recompiles" not in format_metrics({"train_loss": 1.0, "recompiles": 0})
    assert "2 recompiles" in format_metrics({"train_loss": 1.0, "recompiles": 2})
