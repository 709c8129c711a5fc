"""llama.cpp's shared libraries as a peer, called directly: a driver in C++ (llama_cpp_driver.cpp), compiled with g++.

In: a folder that `python -m bench.llama_cpp_folder` makes, and a GGUF file. Out: greedy ids and the seconds of
llama_decode. Raises UserError for a folder that is incomplete, and OSError where the libraries do not load.
"""

import ctypes
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmfast.errors import UserError


class Timed(NamedTuple):
    """Ids of each sequence, seconds until the first id of all, and seconds of the further steps."""

    ids: list[list[int]]
    first: float
    rest: float


class Library:
    """llama.cpp, loaded from a folder. name: its file; backend: the file it chose for this CPU; system: its own summary."""

    def __init__(self, folder: Path):
        folder = folder.resolve()
        names = ("libllama.*", "libggml.*", "libggml-base.*", "include/llama.h")
        files = {name: next(folder.glob(name), None) for name in names}
        if missing := [name for name, path in files.items() if path is None]:
            raise UserError(
                f"{folder}: has no {missing[0]}; make it with `python -m bench.llama_cpp_folder {folder}`"
            )
        libraries = [str(path) for name, path in files.items() if name.startswith("lib")]
        with tempfile.TemporaryDirectory() as place:
            driver = Path(place) / "driver.so"
            source = Path(__file__).with_name("llama_cpp_driver.cpp")
            command = [
                "g++",
                "-std=c++17",
                "-O2",
                "-shared",
                "-fPIC",
                "-Wall",
                "-Wextra",
                f"-I{folder / 'include'}",
            ]
            link = [*libraries, f"-Wl,-rpath,{folder}", "-o", str(driver)]
            subprocess.run([*command, str(source), *link], check=True)
            self.driver = ctypes.CDLL(str(driver))
        self.driver.peer_load.restype = ctypes.c_char_p
        self.driver.peer_open.restype = ctypes.c_void_p
        self.driver.peer_close.argtypes = [ctypes.c_void_p]
        found = self.driver.peer_load(str(folder).encode())
        if found is None:
            raise UserError(f"{folder}: has no libggml-cpu-*.so that runs on this CPU")
        self.name = Path(libraries[0]).name
        self.system = found.decode().strip(" |")
        self.backend = re.findall(r"/(libggml-cpu-\w+\.so)", Path("/proc/self/maps").read_text())[-1]


class Context:
    """A model with `sequences` of up to `context_length` ids each.

    unified: one cache for all sequences. flash: flash attention, and keys and values in float16; otherwise float32."""

    def __init__(
        self, library: Library, path: Path, threads: int, context_length: int, sequences: int,
        unified: bool = False, flash: bool = False,
    ):  # fmt: skip
        self.driver, self.sequences = library.driver, sequences
        flags = ctypes.c_bool(unified), ctypes.c_bool(flash)
        self.peer = self.driver.peer_open(str(path).encode(), threads, context_length, sequences, *flags)
        if not self.peer:
            raise RuntimeError(f"llama.cpp could not open {path}")

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> Timed:
        """Greedy ids. All prompts have the same length and at most 512 ids together."""
        given = np.array(prompts, np.int32)
        ids, seconds = np.zeros((self.sequences, new), np.int32), np.zeros(2)
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in (given, ids, seconds)]
        peer, (start, out, taken) = ctypes.c_void_p(self.peer), addresses
        assert given.shape[0] == self.sequences
        if self.driver.peer_generate(peer, start, given.shape[1], new, out, taken) != 0:
            raise RuntimeError(f"llama.cpp failed to decode {given.shape} ids")
        return Timed(ids.tolist(), *seconds.tolist())

    def close(self) -> None:
        self.driver.peer_close(self.peer)
