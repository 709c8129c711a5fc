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
from lmfast.inference.cpu.slots import CpuSlots
from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.inference.slots import SlotDecoder
from lmfast.serving.scheduler import Scheduler
from lmfast.serving.served_model import ServedModel
from lmfast.settings import selected_precision

if TYPE_CHECKING:
    from lmfast.serve import ServeSettings

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
SWITCH_SECONDS = 5e-4  # of Python's threads: the decoding thread waits as long for the event loop at most
PACKAGES = "starlette uvicorn pydantic prometheus_client"


def serve(settings: "ServeSettings") -> None:
    """Raises UserError if the run, the device or the port cannot be used."""
    try:
        import uvicorn

        from lmfast.serving.app import Limits, make_app
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs the package {error.name}, which is not installed; run `pip install {PACKAGES}`"
        ) from None

    execution = Execution(settings.device, selected_precision(settings), settings.quantize)
    run = open_run(settings.run, execution)
    tokenizer, config = run.tokenizer, run.model.config
    if tokenizer is None:
        raise UserError(
            f"{run.folder}: the run has no tokenizer and cannot be served; import or train it with one"
        )
    name = settings.model_name or run.folder.resolve().name
    longest = config.context_length - 1
    if settings.max_prompt is not None and settings.max_prompt > longest:
        raise UserError(
            f"max_prompt is {settings.max_prompt}; the context of {name} allows at most {longest}"
        )
    model = ServedModel(
        name, tokenizer, config.context_length, config.vocab_size, settings.max_prompt or longest
    )
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    with run.precision, contextlib.closing(listener):
        slots = open_slots(run, settings.max_batch, settings.quantize)
        scheduler = Scheduler(slots, settings.max_queue)
        local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        key = settings.api_key or os.environ.get("LMFAST_API_KEY") or None
        limits = Limits(max_body=settings.max_body, seconds=settings.timeout)
        app = make_app(
            model, scheduler, limits, api_key=key, hosts={*LOOPBACK, settings.host.lower()} if local else None,
            origins=settings.allow_origin,
        )  # fmt: skip
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="on",
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, round(settings.drain)),
            )
        )
        shown = f"[{host}]" if ":" in host else host
        print(
            f"{run.folder}: serving {name} on {run.device} at http://{shown}:{port}/ (page) and /v1 (API), "
            f"{counted(settings.max_batch, 'sequence')} at a time; Ctrl-C stops",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        if not local:
            access = "with the API key" if key else "without an API key: anyone who reaches it can use it"
            print(f"warning: listening on {settings.host}, {access}", file=sys.stderr, flush=True)
        sys.setswitchinterval(SWITCH_SECONDS)
        threading.Thread(target=tokenizer.load_compiled, name="encoder", daemon=True).start()
        try:
            server.run(sockets=[listener])
        except (KeyboardInterrupt, SystemExit):  # uvicorn raises the signal again when it has finished
            pass
        finally:
            scheduler.close()
    print("stopped", file=sys.stderr)


def open_slots(run: OpenRun, slots: int, quantize) -> SlotDecoder:
    if isinstance(run.model, DecoderWeights):
        return CpuSlots(run.model, slots, quantize=quantize)
    from lmfast.inference.model_decoder import make_slots

    return make_slots(run.model, slots, quantize)


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
