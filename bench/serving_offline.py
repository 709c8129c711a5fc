"""A run as `lmfast generate` decodes it, in this process: the side that the server is compared with.

In: a run folder, threads, device and precision. Out: greedy ids, without stopping at <|endoftext|>.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType

from lmfast import Tokenizer
from lmfast.cli.opening import Execution, open_run
from lmfast.inference.cpu.decoder import CpuDecoder
from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.inference.decode import Decoder, continue_prompts
from lmfast.inference.sampling import Sampling

GREEDY = Sampling(0.0)


class Offline:
    """A context manager that closes the decoder of `first_id`."""

    def __init__(self, run: Path, threads: int, device: str = "cpu", bf16: bool = False):
        execution = Execution(device, "bf16" if bf16 else "fp32", None)
        self.run, self.threads = open_run(str(run), execution), threads
        assert self.run.tokenizer is not None
        self.tokenizer: Tokenizer = self.run.tokenizer
        self.decoder: Decoder | None = None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new: int,
        sampling: Sampling = GREEDY,
        stop_ids: Collection[int] = (),
    ) -> list[list[int]]:
        """A call of `generate`."""
        with self.run.precision:
            return continue_prompts(
                self.run.model, prompts, new, sampling, stop_ids=stop_ids, **self.run.options
            )

    def first_id(self, prompt: list[int]) -> int:
        """The greedy id after a prompt, by a decoder of one sequence that stays open."""
        with self.run.precision:
            if self.decoder is None:
                self.decoder = self._open()
            self.decoder.read({0: prompt})
            return self.decoder.step([0], 0)()[0]

    def _open(self) -> Decoder:
        if isinstance(self.run.model, DecoderWeights):
            return CpuDecoder(self.run.model, 1, GREEDY, self.threads)
        from lmfast.inference.model_decoder import make_decoder

        return make_decoder(self.run.model, 1, GREEDY)

    def __enter__(self) -> "Offline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.decoder is not None:
            self.decoder.close()
