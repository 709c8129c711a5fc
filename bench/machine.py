"""The machine of a result: host, device, versions, commit, as needed to judge it.

Out: plain dictionaries for JSON. Only gpu_name imports torch, so that tokenizer benches need not load it.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from lmfast.hardware import cpu_name

ROOT = Path(__file__).resolve().parent.parent
FIELDS = frozenset(("host", "system", "cpu", "cores", "gpu", "versions", "commit", "dirty"))  # of `describe`
PACKAGES = (
    "torch", "triton", "numpy", "numba", "regex", "tiktoken", "tokenizers", "transformers", "gigatoken", "rustbpe",
)  # fmt: skip


def import_path(root: Path) -> str:
    """PYTHONPATH of a process that imports lmfast, bench and lmfast_kernels from the checkout `root`."""
    return os.pathsep.join([str(root), str(root / "kernels")])


def git(*words: str) -> str | None:
    """git's output in the checkout, None without git."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def commit() -> dict[str, str | bool | None]:
    """The checkout's commit, and whether tracked files differ from it.

    LMFAST_COMMIT, as `git describe --always --dirty` prints it, takes precedence: files copied to another machine may be
    there without a history, or in an older checkout.
    """
    if given := os.environ.get("LMFAST_COMMIT"):
        return {"commit": given.removesuffix("-dirty"), "dirty": given.endswith("-dirty")}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "--short=10", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Version of each package that figures depend on, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def gpu_name() -> str | None:
    """The first CUDA device's name, None without one (or without torch)."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def describe(gpu: str | None = None) -> dict:
    """The complete description, for a result file."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": num_cores(),
        "gpu": gpu,
        "versions": versions(),
        **commit(),
    }


def slug(text: str) -> str:
    """A text as part of a file name: `AMD EPYC (Zen 4)` → `amd-epyc-zen-4`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
