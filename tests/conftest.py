"""Shared by several test files: a tiny corpus with its tokenizer and token files, and a tiny training run."""

import contextlib
import gc
import itertools
import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.quick_runs import make_runs_quick

# Models in tests are tiny: a second thread costs more than it gains, much more if test processes share cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that tests start import this checkout, installed or not, as pytest itself does (pyproject.toml, pythonpath).
_ROOT = Path(__file__).resolve().parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(_ROOT), str(_ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# Started in the background (nohup, &) this process and its children would ignore Ctrl-C, which many tests send.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config) -> int:
    """Two workers for the suite, none for a file or two: starting them would cost more than they save."""
    return 0 if any(word.endswith(".py") or "::" in word for word in config.args) else 2


# Files that take ten seconds or more: first, so that no worker is left with one of them at the end. The interpreter is
# first because it uses no Numba, which the other worker compiles meanwhile: together they would compile everything twice.
SLOW_FILES = [
    "kernels/test_interpreted.py",
    "tokenizer/test_bpe.py",
    "training/test_resume.py",
    "training/parallel/test_ranks.py",
    "training/test_faults.py",
    "test_dpo.py",
    "test_sft.py",
    "test_train.py",
    "cli/test_pretraining.py",
    "tokenizer/test_whole_pretokens.py",
    "tokenizer/test_dialects.py",
    "tokenizer/test_sharding.py",
    "tokenizer/test_counting.py",
    "tokenizer/test_merging.py",
    "kernels/test_aot.py",
    "training/test_report.py",
    "inference/test_torch_decoder.py",
    "bench/test_compare.py",
    "kernels/test_backend.py",
    "bench/test_gpu_smoke_fp8.py",
    "bench/test_gpu_smoke_decoding.py",
    "model/test_memory.py",
    "training/test_compiled.py",
]

# Files that start training/forked_runs.py: its server, which imports torch, is started once for all of them.
FORKED_RUNS = {
    "training/parallel/test_fsdp.py",
    "training/parallel/test_recomputed_ranks.py",
    "training/test_resume.py",
    "training/parallel/test_ranks.py",
    "training/parallel/test_tensor_model.py",
    "training/parallel/test_tensor_parallel.py",
    "training/parallel/test_vocabulary_loss.py",
    "bench/test_checkpoint_overhead.py",
    "training/parallel/test_agreement.py",
    "training/parallel/test_lost_ranks.py",
    "training/parallel/test_killed_ranks.py",
    "training/test_faults.py",
    "training/test_saves.py",
    "test_dpo.py",
    "test_sft.py",
}


def pytest_collection_modifyitems(items) -> None:
    """Slow files first; pytest-xdist hands files out in this order."""
    rank = {name: i for i, name in enumerate(SLOW_FILES)}
    folder = Path(__file__).parent
    items.sort(key=lambda item: rank.get(os.path.relpath(item.path, folder), len(rank)))


def pytest_xdist_make_scheduler(config, log):
    """--dist loadfile, with FORKED_RUNS as if they were one file."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "forked runs" if file.removeprefix("tests/") in FORKED_RUNS else file

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """No garbage is collected during collection, whose million objects stay; nor are they searched for any later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


TINY_MODEL = (
    "--context-length 16 --d-model 16 --num-layers 2 --num-heads 2 --d-ff 24 --batch-size 4 --max-iters 6 "
    "--warmup-iters 2 --lr 1e-2 --log-interval 1 --eval-interval 3 --checkpoint-interval 3 --device cpu"
).split()


@pytest.fixture
def compiled_quickly(monkeypatch):
    """torch.compile without Inductor: graphs and guards are real, but no code is generated."""
    import torch

    from lmfast.inference import torch_decoder

    monkeypatch.setitem(torch_decoder.COMPILE, "backend", "eager")
    torch_decoder._compiled_decode.cache_clear()
    torch._dynamo.reset()
    yield
    torch_decoder._compiled_decode.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def ticking_clock(monkeypatch):
    """Each reading moves the clock of training by 20 ms, so max_minutes ends a run after the same step on any machine."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: 0.02 * next(ticks))
    monkeypatch.setattr("lmfast.training.clock.time", clock)


@pytest.fixture
def small_files():
    """size → a context in which no file of this process may grow beyond `size` bytes, like a full disk."""

    @contextlib.contextmanager
    def limited(size: int):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@dataclass(frozen=True)
class Corpus:
    """Paths of a few stories, a tokenizer of 300 tokens, and token files of both parts."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / {"text": "train.txt", "train": "train.npy", "valid": "valid.npy"}.get(name, name)

    def flags(self) -> list[str]:
        return ["--train-data", str(self.train), "--val-data", str(self.valid), *TINY_MODEL]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    from lmfast.data.stories.corpus import write_stories
    from lmfast.tokenizer.training import train_bpe

    folder = tmp_path_factory.mktemp("corpus")
    write_stories(folder / "train.txt", 20_000, seed=1)
    write_stories(folder / "valid.txt", 3_000, seed=2)
    tokenizer = train_bpe(folder / "train.txt", 300, special_tokens=["<|endoftext|>"], num_workers=1)
    tokenizer.save(folder / "tokenizer")
    tokenizer = type(tokenizer).load(folder / "tokenizer")
    for name in ("train", "valid"):
        tokenizer.encode_file(folder / f"{name}.txt", folder / f"{name}.npy", num_workers=1)
        side = folder / f"{name}.npy.json"
        assert json.loads(side.read_text())["vocab_size"] == 300
    return Corpus(folder)


@pytest.fixture(scope="session")
def trained_run(corpus, tmp_path_factory) -> Path:
    """A finished run folder on the tiny corpus."""
    from lmfast.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    flags = [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--sample-interval", "6"]
    assert train([*flags, "--out-dir", str(folder)])
    return folder


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Runs `lmfast sweep` in an empty folder; its trials are sweeps/stub_train.py, and it writes no page."""
    from lmfast.cli import sweeping
    from tests.sweeps.stub_sweep import Stub, stub_command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeping, "train_command", stub_command)
    monkeypatch.setattr(sweeping, "prepare", lambda **_: None)
    monkeypatch.setattr(sweeping.Console, "write_page", lambda self: None)
    monkeypatch.setattr("lmfast.sweeps.running.POLL_SECONDS", 0.02)
    monkeypatch.setenv("STUB_STARTS", str(tmp_path / "starts"))
    return Stub(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium. Per module, because the event loop of Playwright's synchronous API blocks asyncio.run elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium in PATH; on Debian: apt-get install chromium")
    playwright.expect.set_options(timeout=30_000)
    with playwright.sync_playwright() as driver:
        # Debian's chromium draws with an emulated GPU by default, which sometimes hangs for seconds on a busy machine.
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def quick_runs(request, monkeypatch) -> None:
    """Applies to tests that train on the tiny corpus."""
    if "corpus" in request.fixturenames:
        make_runs_quick(monkeypatch)


@pytest.fixture
def opened(monkeypatch) -> Counter:
    """Counts, by file name, how often tokenizers and token files are opened and checkpoints are verified."""
    from lmfast.data import token_file
    from lmfast.tokenizer.bpe import Tokenizer
    from lmfast.training import checkpoint

    counts = Counter()

    def counted(what: str, real):
        def opens(path, *rest):
            counts[f"{what} {Path(path).name}"] += 1
            return real(path, *rest)

        return opens

    monkeypatch.setattr(token_file, "_open_npy", counted("tokens", token_file._open_npy))
    monkeypatch.setattr(checkpoint, "_damage", counted("checkpoint", checkpoint._damage))
    monkeypatch.setattr(Tokenizer, "load", staticmethod(counted("tokenizer", Tokenizer.load)))
    return counts
