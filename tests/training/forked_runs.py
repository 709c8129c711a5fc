"""Training runs in processes that start in milliseconds, forked from one that has already imported torch.

process = start(argv, log)      # as `python -m lmfast.train ARGV` (or another COMMAND), its output in the file `log`
process.pid, process.join(), process.exitcode (minus the signal's number if a signal ended it)
"""

import datetime
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch._inductor.compile_fx
import torch.distributed
import torch.distributed.fsdp

import lmfast.train
import lmfast.training.run  # noqa: F401
from lmfast.training.parallel.ranks import Ranks
from tests.quick_runs import make_runs_quick

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def start(
    argv: list[str],
    log: Path,
    setup: Callable[[], None] | None = None,
    threads: int = 1,
    env: dict[str, str] | None = None,
    command: str = "train",
):
    """setup: called in the child first; a function of a module, or a functools.partial of one."""
    process = _CONTEXT.Process(
        target=_train, args=(command, list(map(str, argv)), log, setup, threads, env or {})
    )
    process.start()
    return process


def start_ranks(
    argv: list[str],
    log: Path,
    number: int = 2,
    setup: Callable[[], None] | None = None,
    command: str = "train",
    only: Sequence[int] | None = None,
) -> list:
    """`number` ranks as torchrun starts them, without its supervision; the output of rank i is in log.i. only: those that
    are started."""
    reserved = socket.socket()  # never listens: reserves the port, on which rank 0 may still listen
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    common = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        start(
            argv,
            Path(f"{log}.{rank}"),
            setup,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            command=command,
        )
        for rank in (range(number) if only is None else only)
    ]
    processes[0].reserved_port = reserved  # kept as long as the processes
    return processes


def finish(processes: list, log: Path, codes: tuple[int, ...] = (0, 0)) -> list[str]:
    """The output of each rank, after all have ended with these exit codes; kills ranks still running after 200 s."""
    for process in processes:
        process.join(200)
        if process.is_alive():
            process.kill()
    texts = [Path(f"{log}.{rank}").read_text() for rank in range(len(processes))]
    assert tuple(process.exitcode for process in processes) == codes, texts
    return texts


def close(a: dict, b: dict) -> None:
    """Whether weights are equal up to rounding."""
    assert a.keys() == b.keys()
    torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def _train(command, argv, log, setup, threads, env) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    torch.set_num_threads(threads)
    make_runs_quick(pytest.MonkeyPatch())
    if setup is not None:
        setup()
    try:
        importlib.import_module(f"lmfast.{command}").main(argv)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def on_ranks(function: Callable[..., Any], folder: Path, number: int = 2, *arguments: Any) -> list[Any]:
    """The results of function(ranks, *arguments) in `number` processes with gloo, in the order of the ranks.

    function: of a module. folder: an empty one, for files. Results: what pickle can store, such as tensors and numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        _CONTEXT.Process(target=_call, args=(function, folder, rank, number, arguments))
        for rank in range(number)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        if process.is_alive():
            process.kill()
    assert all(process.exitcode == 0 for process in processes), "".join(
        path.read_text() for path in sorted(folder.glob("error.*"))
    )
    return [torch.load(folder / f"result.{rank}") for rank in range(number)]


def _call(function, folder: Path, rank: int, number: int, arguments: tuple) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=number, timeout=timeout
        )
        torch.save(function(Ranks(rank, number, rank), *arguments), folder / f"result.{rank}")
        torch.distributed.destroy_process_group()
    except BaseException:
        (folder / f"error.{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
