"""`lmfast generate` after its settings were checked: loads the run and continues prompts, or chats."""

import codecs
import sys
import time
from typing import TYPE_CHECKING

from lmfast.cli.chatting import talk
from lmfast.cli.opening import Execution, OpenRun, open_run
from lmfast.data.chat import ending_ids
from lmfast.errors import UserError
from lmfast.inference.decode import continue_prompts
from lmfast.inference.sampling import Sampling
from lmfast.settings import selected_precision
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.special_tokens import DOCUMENT_END

if TYPE_CHECKING:
    from lmfast.generate import GenerateSettings


def load_and_generate(settings: "GenerateSettings", prompts: list[str]) -> None:
    """As `lmfast.generate.generate_text`, with the prompts that it read."""
    # Checks the values before the model is loaded.
    sampling = Sampling(settings.temperature, settings.top_k, settings.top_p, settings.seed)
    run = open_run(settings.checkpoint, execution_of(settings))
    if run.tokenizer is None:
        raise UserError(
            f"{run.folder}: the run has no tokenizer and cannot generate text; import or train it with --tokenizer"
        )
    with run.precision:
        if settings.chat:
            talk(settings, sampling, run, run.tokenizer)
        else:
            _write(settings, prompts, sampling, run, run.tokenizer)


def execution_of(settings: "GenerateSettings") -> Execution:
    return Execution(
        settings.device, selected_precision(settings), settings.quantize, settings.compile, settings.kv_cache
    )


def _write(
    settings: "GenerateSettings", prompts: list[str], sampling: Sampling, run: OpenRun, tokenizer: Tokenizer
) -> None:
    """Continues the prompts and prints them, and the rate."""
    begin, stop_ids = tokenizer.special_tokens.get(DOCUMENT_END), ending_ids(tokenizer)
    if settings.stop and not stop_ids:
        print(
            f"{run.folder}: the tokenizer has no <|endoftext|>, so each text continues to max_tokens",
            file=sys.stderr,
        )
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    if begin is not None:
        ids = [row or [begin] for row in ids]
    elif not all(ids):
        raise UserError("the tokenizer has no <|endoftext|> to start a text from; give --prompt")

    printer = _StreamPrinter(tokenizer, prompts[0]) if len(prompts) == 1 else None
    start = time.perf_counter()
    new = continue_prompts(
        run.model, ids, settings.max_tokens, sampling, stop_ids=stop_ids if settings.stop else (),
        on_tokens=printer, **run.options,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if printer is not None:
        printer.finish()
    else:
        for number, (prompt, row) in enumerate(zip(prompts, new, strict=True), 1):
            print(f"--- {number}\n{prompt}{tokenizer.decode(row)}")
    count = sum(map(len, new))
    mode = "with" if settings.kv_cache else "without"
    weights = "" if settings.quantize is None else f", {settings.quantize} weights"
    print(
        f"{run.folder}: {count} tokens in {seconds:.2f} s, {count / seconds:,.0f} tokens/s {mode} KV cache{weights} on "
        f"{run.device}",
        file=sys.stderr,
    )


class _StreamPrinter:
    """Prints the text of one sequence token by token, whole characters only."""

    def __init__(self, tokenizer, prompt: str):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        print(prompt, end="", flush=True)

    def __call__(self, ids: list[int | None]) -> None:
        if ids[0] is not None:
            print(self.decoder.decode(self.tokenizer.decode_bytes(ids)), end="", flush=True)

    def finish(self) -> None:
        print(self.decoder.decode(b"", final=True), flush=True)
