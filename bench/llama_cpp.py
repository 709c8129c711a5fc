"""llama.cpp as a peer: a GGUF file in the server of the package xllamacpp (`pip install xllamacpp`).

In: a GGUF file. Out: what the server's HTTP interface answers. Keys and values are float32 and flash attention is off, so
that a float32 file computes what our model computes. Threads: as given, 1 by default.
"""

import json
import urllib.request
from pathlib import Path
from typing import Any


class LlamaCpp:
    """A server with one slot of `context_length` tokens."""

    def __init__(self, path: Path, context_length: int, num_threads: int = 1):
        import xllamacpp

        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx = context_length
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
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
