"""python -m lmfast.serve RUN: an HTTP server for a trained or imported model, with OpenAI's API and a chat page.

Serves /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics and the page at /. Requests are decoded together
(lmfast/inference/batching.py). Ctrl-C and SIGTERM finish the requests that are being answered; a second one ends at once.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.errors import UserError
from lmfast.model.torch_environment import set_environment
from lmfast.settings import Option, selected_precision


@dataclass(frozen=True)
class ServeSettings:
    """Serve a model over HTTP with OpenAI's API, and a page to chat with it."""

    run: Annotated[str | None, Option(positional=True)] = None
    """run folder or checkpoint; defaults to the newest run under runs/"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 makes the server reachable from other machines"""
    port: int = 8000
    """port to listen on; 0 chooses a free one"""
    model_name: str | None = None
    """name of the model in the API; defaults to the name of the run folder"""
    api_key: str | None = None
    """key that requests must carry; defaults to the environment variable LMFAST_API_KEY, which other users cannot see"""
    allow_origin: tuple[str, ...] = ()
    """origins such as https://example.org whose pages may use the API (CORS); none by default"""
    max_batch: int = 16
    """sequences decoded at the same time; others wait"""
    context_length: int | None = None
    """most tokens of a prompt and its answer together; defaults to the model's context"""
    max_queue: int = 256
    """sequences that may wait; further requests get status 429"""
    max_prompt: int | None = None
    """most tokens of a prompt; defaults to what the context holds"""
    max_body: int = 2_000_000
    """most bytes of a request; larger ones get status 413"""
    timeout: float = 600.0
    """seconds until an unfinished answer is given up with status 504, waiting included"""
    drain: float = 30.0
    """seconds that answers may take to finish after Ctrl-C or SIGTERM"""
    bf16: bool = False
    """compute in bfloat16, which is faster on a GPU"""
    fp16: bool = False
    """compute in float16, for GPUs without bfloat16"""
    quantize: Literal["int8"] | None = None
    """int8: store weights in 8 bits; only on a CPU, where all else stays float32"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """device to run on"""


def build_parser() -> SettingsParser:
    return SettingsParser(ServeSettings, "lmfast serve")


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        settings = parse(ServeSettings, sys.argv[1:] if argv is None else argv, "lmfast serve")
        check(settings)
        set_environment()
        from lmfast.cli.serving import serve

        serve(settings)


def check(settings: ServeSettings) -> None:
    """Raises UserError for a value out of range, before anything is loaded."""
    least = {"max_batch": 1, "max_queue": 0, "max_prompt": 1, "context_length": 2, "max_body": 1, "port": 0}
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and value < smallest:
            raise UserError(f"{name} is {value}; it must be at least {smallest}")
    if settings.port > 65535:
        raise UserError(f"port is {settings.port}; it must be at most 65535")
    for name in ("timeout", "drain"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise UserError(f"{name} is {getattr(settings, name)}; it must be a positive number of seconds")
    if settings.api_key == "" or settings.model_name == "":
        raise UserError(
            f"{'api_key' if settings.api_key == '' else 'model_name'} is empty; give a value, or leave it out"
        )
    if settings.quantize is not None and (settings.bf16 or settings.fp16):
        raise UserError(f"--quantize {settings.quantize} computes in float32; remove --bf16 and --fp16")
    selected_precision(settings)


if __name__ == "__main__":
    main()
