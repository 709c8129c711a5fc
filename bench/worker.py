"""Work repeated on request in a process of its own: `python -m bench.worker KIND`, for comparisons of environments.

A process reads its threads' settings once, and compiled code keeps the operators it was traced with. So each side of a
comparison is a process, and the one that is not being timed waits for its standard input.

In: the number of repetitions, a line each. Out: "ready" after warming up, then for every line the seconds of each
repetition as a JSON list. Environment variables are set as commands set them (lmfast/model/torch_environment.py).
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import TracebackType

from bench import machine
from bench.timing import seconds
from lmfast.model.torch_environment import set_environment


class Worker:
    """A process doing work of this kind with additional environment variables; a context manager that ends it."""

    def __init__(self, kind: str, **environment: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", kind], cwd=machine.ROOT, env=os.environ | environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait()}")
        return line

    def __call__(self, repetitions: int) -> list[float]:
        """Seconds of each of these repetitions."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{repetitions}\n")
        self.process.stdin.flush()
        return json.loads(self._answer())

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()


def training(shape: dict[str, int] | None = None) -> Callable[[], object]:
    """A compiled training step in float32, as training_table.py takes it; shape: of another model than its own."""
    from bench.training_table import sides
    from lmfast.model.config import ModelConfig

    return sides(("ours",), config=ModelConfig(**shape) if shape else None)["ours"]


def decoding() -> Callable[[], object]:
    """64 tokens of one sequence, greedily, by the 5.3M model."""
    from bench.generation_table import make_model, make_prompts
    from lmfast.inference.decode import generate

    model = make_model("5.3M")
    return partial(generate, model, make_prompts(model, 1).tolist(), 64, temperature=0.0)


def evaluation() -> Callable[[], object]:
    """The mean loss of a batch of 8 × 256 tokens under the 5.3M model, as `lmfast evaluate` computes it."""
    import numpy as np
    import torch

    from bench.generation_table import make_model
    from lmfast.data.batches import Batches
    from lmfast.training.objectives import NextToken

    model, objective = make_model("5.3M"), NextToken()
    config = model.config
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 200_000, np.int64).astype(np.uint16)
    batch = objective.tensors(Batches(tokens, 8, config.context_length, seed=0).step(0), torch.device("cpu"))
    return torch.inference_mode()(partial(objective.loss, model, *batch))


TINY = {"vocab_size": 512, "context_length": 64, "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 176}
KINDS = {
    "training 5.3M": training,
    "training 0.2M": partial(training, TINY),
    "decoding 5.3M": decoding,
    "evaluation 5.3M": evaluation,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    kind = parser.parse_args().kind
    set_environment()  # before torch is imported
    work = KINDS[kind]()
    for _ in range(3):
        work()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps([seconds(work) for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
