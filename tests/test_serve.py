import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from lmfast.cli.serving import served_model
from lmfast.model.config import ModelConfig
from lmfast.serve import ServeSettings, main
from lmfast.settings import flat_types
from tests.processes import wait_until


def test_every_setting_is_tested_here():
    here = Path(__file__).read_text(encoding="utf-8")
    for name in flat_types(ServeSettings).keys() - {"run"}:
        assert f"--{name.replace('_', '-')}" in here or f'"{name}"' in here, name


class Process:
    """`lmfast serve RUN` in a process; its standard error is in `log`."""

    def __init__(self, run: Path, log: Path, *words: str, **environment: str):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lmfast.serve", str(run), "--port", "0", "--device", "cpu", *words],
                stderr=file, env=os.environ | environment,
            )  # fmt: skip
        found = wait_until(lambda: re.search(r"http://\S+/", self.text), self.alive)
        self.url = found[0].rstrip("/")

    @property
    def text(self) -> str:
        return self.log.read_text()

    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def serve(trained_run, tmp_path):
    started = []

    def start(*words: str, **environment: str) -> Process:
        started.append(Process(trained_run, tmp_path / f"log{len(started)}", *words, **environment))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_run_is_served_until_sigterm(serve, trained_run):
    server = serve("--max-batch", "2", "--quantize", "int8", LMFAST_API_KEY="secret")
    headers = {"Authorization": "Bearer secret"}
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    (model,) = httpx.get(f"{server.url}/v1/models", headers=headers).json()["data"]
    assert model["id"] == trained_run.name
    body = {
        "prompt": "Once upon",
        "max_tokens": 8,
        "temperature": 0,
        "stream": True,
        "n": 4,
        "ignore_eos": True,
    }
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers) as response:
        events = response.iter_lines()
        next(events)
        server.process.send_signal(signal.SIGTERM)
        rest = list(events)
    assert rest[-2:] == ["data: [DONE]", ""]  # the answer was finished
    assert server.process.wait(60) == 0
    assert server.text.endswith("stopped\n") and "2 sequences at a time" in server.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_options_reach_the_server(serve):
    server = serve(
        "--model-name", "story", "--context-length", "12", "--max-prompt", "5", "--max-body", "500",
        "--max-queue", "7", "--timeout", "50", "--drain", "3",
        "--allow-origin", "http://a.example", "--api-key", "k", "--host", "127.0.0.2",
    )  # fmt: skip
    headers = {"Authorization": "Bearer k", "Origin": "http://a.example"}
    found = httpx.get(f"{server.url}/v1/models/story", headers=headers)
    assert found.json()["id"] == "story" and found.json()["max_model_len"] == 12
    assert found.headers["access-control-allow-origin"] == "http://a.example"
    for prompt, status in (("a b c d e f g h", 400), ("a" * 600, 413), ("a", 200)):
        body = {"prompt": prompt, "max_tokens": 1}
        assert httpx.post(f"{server.url}/v1/completions", json=body, headers=headers).status_code == status
    assert server.end(signal.SIGINT) == 0 and "warning" not in server.text


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_other_addresses_are_warned_about(serve):
    assert "without an API key" in wait_for(serve("--host", "0.0.0.0"), "warning")
    assert "with the API key" in wait_for(serve("--host", "0.0.0.0", "--api-key", "k"), "warning")
    assert "pages of any site" in wait_for(serve("--allow-origin", "*"), "warning")


def wait_for(server: Process, word: str) -> str:
    return wait_until(lambda: word in server.text and server.text, server.alive)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "port is 70000; it must be at most 65535"),
        (["--max-batch", "0"], "max_batch is 0; it must be at least 1"),
        (["--max-queue", "-1"], "max_queue is -1; it must be at least 0"),
        (["--timeout", "0"], "timeout is 0.0; it must be a positive number of seconds"),
        (["--drain", "nan"], "drain is nan; it must be a positive number of seconds"),
        (["--api-key", ""], "api_key is empty"),
        (["--api-key", "k\n", "--device", "cpu"], "the API key begins or ends with a space"),
        (["--model-name", ""], "model_name is empty"),
        (["--quantize", "int8", "--bf16"], "--quantize int8 computes in float32; remove --bf16 and --fp16"),
        (["--bf16", "--fp16"], "bf16 and fp16 are both set"),
        (
            ["--host", "no.such.host.invalid", "--device", "cpu"],
            "cannot listen on no.such.host.invalid, port 8000",
        ),
        (["--max-prompt", "100000", "--device", "cpu"], "max_prompt is 100000; the context of"),
        (["--context-length", "100000", "--device", "cpu"], "context_length is 100000; the context of"),
        (["--context-length", "1"], "context_length is 1; it must be at least 2"),
        (
            ["--max-batch", "1000000000", "--device", "cpu", "--port", "0"],
            "use a smaller --max-batch or --context-length",
        ),
    ],
)
def test_bad_settings(trained_run, capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main([str(trained_run), *words])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_port_in_use(trained_run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        main([str(trained_run), "--port", str(taken.getsockname()[1]), "--device", "cpu"])
    assert "in use" in capsys.readouterr().err


def test_a_checkpoint_has_the_name_of_its_run(trained_run):
    run = SimpleNamespace(
        folder=next(trained_run.glob("checkpoints/step_*")), tokenizer=object(),
        model=SimpleNamespace(config=ModelConfig(vocab_size=300).resolved()),
    )  # fmt: skip
    assert served_model(ServeSettings(), run).name == trained_run.name


def test_a_missing_package(trained_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "lmfast.serving.http_server", raising=False)
    with pytest.raises(SystemExit):
        main([str(trained_run), "--device", "cpu"])
    assert (
        "serving needs the package uvicorn, which is not installed; run `pip install"
        in capsys.readouterr().err
    )
