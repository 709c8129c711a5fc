"""llama.cpp as a peer: a GGUF file in the server of the package xllamacpp (`pip install xllamacpp`).

In: a GGUF file. Out: what the server's HTTP interface answers. By default, keys and values are float32 and flash attention
is off, so that a float32 file computes what our model computes. Threads: as given, 1 by default.

`python -m bench.llama_cpp FILE --port N --slots N …` serves until it is terminated.
"""

import argparse
import json
import threading
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any


def build() -> str:
    """The package's version, and the widest vectors that its only build for CPUs uses."""
    import xllamacpp

    features = xllamacpp.get_system_info()
    widest = next(
        (name for name in ("AVX512", "AVX2", "AVX", "NEON") if f"{name} = 1" in features), "no vectors"
    )
    return f"xllamacpp {version('xllamacpp')}, {widest}"


class LlamaCpp:
    """A server with `slots` slots of `context_length` tokens each, that reuses no prompt's keys and values for another's.

    flash: flash attention, and keys and values in float16, which are its defaults. port: 0 for any."""

    def __init__(
        self, path: Path, context_length: int, num_threads: int = 1, slots: int = 1, flash: bool = False, port: int = 0
    ):  # fmt: skip
        import xllamacpp

        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx, options.n_parallel = slots * context_length, slots
        options.cont_batching = True
        options.port = port
        options.cache_prompt = options.cache_idle_slots = False
        options.cache_ram_mib = 0
        types, ways = xllamacpp.ggml_type, xllamacpp.llama_flash_attn_type
        options.cache_type_k = options.cache_type_v = types.GGML_TYPE_F16 if flash else types.GGML_TYPE_F32
        options.flash_attn_type = (
            ways.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else ways.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = num_threads
        options.n_gpu_layers = 0
        options.fit_params = options.warmup = False
        options.verbosity = -1
        self.server = xllamacpp.Server(options)

    def post(self, path: str, **body: Any) -> Any:
        """The answer of one endpoint. Raises urllib.error.HTTPError for an error of the server."""
        request = urllib.request.Request(
            self.server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, with special tokens recognised."""
        return self.post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def greedy(self, prompt: list[int], new: int) -> list[int]:
        """Up to `new` ids that continue a prompt; the last may end the text."""
        return self.post(
            "/completion", prompt=prompt, n_predict=new, temperature=0.0, return_tokens=True
        )["tokens"]  # fmt: skip

    def log_probabilities(self, prompt: list[int], vocab_size: int) -> list[float]:
        """Of each id, to follow a prompt."""
        # The server reports them only next to a whole character, so "a" is made to follow; they are those before that.
        follows = [[self.tokenize("a")[0], 1e6]]
        options = {"temperature": 0.0, "n_probs": vocab_size, "logit_bias": follows}
        answer = self.post("/completion", prompt=prompt, n_predict=1, **options)
        found = answer["completion_probabilities"][0]["top_logprobs"]
        logs = {entry["id"]: entry["logprob"] for entry in found}
        return [logs.get(token, float("-inf")) for token in range(vocab_size)]

    def chat(self, messages: list[dict[str, str]], new: int) -> list[int]:
        """The ids of the greedy answer to a conversation."""
        options = {"temperature": 0.0, "max_tokens": new, "verbose": True, "return_tokens": True}
        answer = self.post("/v1/chat/completions", messages=messages, **options)
        return answer["__verbose"]["tokens"]

    def render(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the file's chat template renders it, up to the assistant's next message."""
        return self.post("/apply-template", messages=messages)["prompt"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.llama_cpp", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--context-length", type=int, required=True, help="tokens of each slot")
    parser.add_argument("--slots", type=int, default=1, help="sequences at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--flash", action="store_true", help="flash attention, keys and values in float16")
    chosen = parser.parse_args()
    peer = LlamaCpp(
        chosen.file, chosen.context_length, chosen.threads, chosen.slots, chosen.flash, chosen.port
    )
    print(peer.server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
