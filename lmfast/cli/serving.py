"""`lmfast serve` after its settings were checked: opens the run and the port, and serves until it is stopped."""

import contextlib
import ipaddress
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

from lmfast.cli.opening import Execution, OpenRun, open_run
from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.hardware import machine_memory
from lmfast.inference.cpu.slots import CpuSlots
from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.inference.slots import SlotDecoder
from lmfast.model.memory import kv_cache_bytes_per_token
from lmfast.serving.scheduler import Scheduler
from lmfast.serving.served_model import ServedModel
from lmfast.settings import selected_precision
from lmfast.units import data_size

if TYPE_CHECKING:
    from lmfast.serve import ServeSettings

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
KEY_VARIABLE = "LMFAST_API_KEY"
SWITCH_SECONDS = 5e-4  # of Python's threads: the decoding thread waits as long for the event loop at most
PACKAGES = "starlette uvicorn httptools uvloop pydantic prometheus_client"


def serve(settings: "ServeSettings") -> None:
    """Raises UserError if the run, the device or the port cannot be used."""
    try:
        from lmfast.serving.app import Limits, make_app
        from lmfast.serving.http_server import HttpServer
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise UserError(
            f"serving needs the package {package}, which is not installed; run `pip install {PACKAGES}`"
        ) from None

    run = open_run(settings.run, Execution(settings.device, selected_precision(settings), settings.quantize))
    model, key = served_model(settings, run), api_key(settings)
    with contextlib.closing(listen(settings.host, settings.port)) as listener, run.precision:
        host, port = listener.getsockname()[:2]
        local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        scheduler = Scheduler(open_slots(settings, run, model.context_length), settings.max_queue)
        app = make_app(
            model, scheduler, Limits(max_body=settings.max_body, seconds=settings.timeout), api_key=key,
            hosts={*LOOPBACK, settings.host.lower()} if local else None, origins=settings.allow_origin,
        )  # fmt: skip
        server = HttpServer(app, settings.drain)
        shown = f"[{host}]" if ":" in host else host
        print(
            f"{run.folder}: serving {model.name} on {run.device} at http://{shown}:{port}/ (page) and /v1 (API), "
            f"{counted(settings.max_batch, 'sequence')} at a time; Ctrl-C stops",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        if "*" in settings.allow_origin and not key:
            print(
                "warning: pages of any site can use the model, without an API key",
                file=sys.stderr,
                flush=True,
            )
        if not local:
            access = "with the API key" if key else "without an API key: anyone who reaches it can use it"
            print(f"warning: listening on {settings.host}, {access}", file=sys.stderr, flush=True)
        sys.setswitchinterval(SWITCH_SECONDS)
        threading.Thread(target=model.tokenizer.load_compiled, name="encoder", daemon=True).start()
        try:
            # uvicorn raises the signal that ended it again when it has finished.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                server.run(sockets=[listener])
        finally:
            scheduler.close()
    print("stopped", file=sys.stderr)


def api_key(settings: "ServeSettings") -> str | None:
    """Raises UserError for a key that no header can carry."""
    key = settings.api_key or os.environ.get(KEY_VARIABLE) or None
    if key is not None and (key != key.strip() or not key.isprintable()):
        raise UserError("the API key begins or ends with a space, or contains a line break; remove it")
    return key


def served_model(settings: "ServeSettings", run: OpenRun) -> ServedModel:
    config = run.model.config
    if run.tokenizer is None:
        raise UserError(
            f"{run.folder}: the run has no tokenizer and cannot be served; import or train it with one"
        )
    context = settings.context_length or config.context_length
    max_prompt = settings.max_prompt or context - 1
    for name, value, most in (
        ("context_length", context, config.context_length),
        ("max_prompt", max_prompt, context - 1),
    ):
        if value > most:
            raise UserError(f"{name} is {value}; the context of {run.folder} allows at most {most}")
    folder = run.folder.resolve()
    if folder.parent.name == "checkpoints":
        folder = folder.parent.parent
    name = settings.model_name or folder.name
    return ServedModel(name, run.tokenizer, context, config.vocab_size, max_prompt)


def open_slots(settings: "ServeSettings", run: OpenRun, context_length: int) -> SlotDecoder:
    """The decoder. Raises UserError if its cache does not fit the memory."""
    number_bytes = 2 if settings.bf16 or settings.fp16 else 4
    needed = kv_cache_bytes_per_token(run.model.config, number_bytes) * context_length * settings.max_batch
    problem = UserError(
        f"the cache of {counted(settings.max_batch, 'sequence')} of {context_length} tokens needs {data_size(needed)}, "
        "which does not fit the memory; use a smaller --max-batch or --context-length"
    )
    memory = machine_memory()
    if run.device == "cpu" and memory is not None and needed > memory:
        raise problem
    try:
        if isinstance(run.model, DecoderWeights):
            return CpuSlots(
                run.model, settings.max_batch, quantize=settings.quantize, context_length=context_length
            )
        from lmfast.inference.model_decoder import make_slots

        return make_slots(run.model, settings.max_batch, settings.quantize, context_length)
    except MemoryError:
        raise problem from None
    except RuntimeError as error:  # torch's
        if "memory" not in str(error):
            raise
        raise problem from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError if the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(2048)
        except BaseException:
            found.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --host or --port"
        ) from None
    return found
