"""python -m lmfast.generate: continue prompts with a trained model.

Prompts come from the command line, a file or a pipe. The text of one prompt streams to standard output; with several
prompts each text is printed when all are complete. Everything else goes to standard error.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lmfast.cli.arguments import unescape
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.errors import UserError, exit_on_user_error
from lmfast.files import read_text
from lmfast.model import compile_cache
from lmfast.settings import Option, selected_precision
from lmfast.streams import input_is_piped, standard_input, standard_output
from lmfast.tokenizer.special_tokens import DOCUMENT_END


@dataclass(frozen=True)
class GenerateSettings:
    """Generate text with a trained model, or chat with it."""

    checkpoint: str | None = None
    """run folder or checkpoint; defaults to the newest run under runs/"""
    prompt: Annotated[tuple[str, ...], Option(aliases=("prompts",))] = ()
    """text to continue; several prompts form a batch; without one, reads piped text or starts from <|endoftext|>"""
    prompt_file: str | None = None
    """file with one prompt per line; - reads standard input"""
    prompt_separator: str = "\\n"
    """separator between prompts in a file or piped text, such as '\\n---\\n'; '' makes all of it one prompt"""
    chat: bool = False
    """chat with a model trained by sft or dpo, one line per turn; /reset clears the history, /exit ends"""
    system: str | None = None
    """chat: system message"""
    max_tokens: int = 256
    """maximum number of new tokens per prompt"""
    temperature: float = 0.8
    """sampling temperature; 0 is greedy"""
    top_k: int | None = None
    """sample only from the k most likely tokens"""
    top_p: float | None = 0.95
    """sample only from the most likely tokens whose probabilities sum to p"""
    seed: int = 0
    """random seed; equal seeds give equal text"""
    stop: bool = True
    """stop at <|endoftext|>, for chat models also at <|end|>; --no-stop continues to max_tokens"""
    kv_cache: bool = True
    """cache keys and values; --no-kv-cache recomputes them, for comparison"""
    compile: bool = False
    """compile the decoding step with torch.compile; not needed on a CPU in float32"""
    bf16: bool = False
    """compute in bfloat16, which is faster on a GPU"""
    fp16: bool = False
    """compute in float16, for GPUs without bfloat16"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """device to run on"""


def build_parser() -> SettingsParser:
    return SettingsParser(GenerateSettings, "lmfast generate")


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        rest, prompts = _split_prompts(sys.argv[1:] if argv is None else argv)
        settings = parse(GenerateSettings, rest, "lmfast generate")
        generate_text(dataclasses.replace(settings, prompt=prompts))


def generate_text(settings: GenerateSettings) -> None:
    """Loads the run, continues the prompts, prints the text and the rate. Raises UserError on bad input."""
    standard_output()
    if settings.chat and (settings.prompt or settings.prompt_file is not None):
        raise UserError(
            "--chat reads messages from standard input; remove --prompt and --prompt-file, or --chat"
        )
    if settings.chat and not settings.stop:
        raise UserError("--chat stops at the end of each answer; remove --no-stop, or --chat")
    if settings.system is not None and not settings.chat:
        raise UserError("--system requires --chat; add --chat, or remove --system")
    if settings.max_tokens < 1:
        raise UserError(f"max_tokens is {settings.max_tokens}; it must be at least 1")
    precision = selected_precision(settings)
    prompts = [] if settings.chat else _prompts(settings)
    compile_cache.set_directory()
    from lmfast.data.chat import ending_ids
    from lmfast.inference.decode import generate
    from lmfast.inference.sampling import Sampling
    from lmfast.model.device import autocast, compile_blocker, pick_device
    from lmfast.training.run_folder import load_run, newest_run

    sampling = Sampling(
        settings.temperature, settings.top_k, settings.top_p, settings.seed
    )  # checks the values before the model is loaded
    device = pick_device(settings.device)
    if settings.compile and (reason := compile_blocker(device)):
        raise UserError(f"--compile does not work here: {reason}; remove it")
    folder = Path(settings.checkpoint) if settings.checkpoint else newest_run()
    model, tokenizer, _ = load_run(folder, device=str(device))
    if tokenizer is None:
        raise UserError(
            f"{folder}: the run has no tokenizer and cannot generate text; train with --tokenizer"
        )
    if settings.chat:
        with autocast(device, precision):
            _talk(settings, sampling, model, tokenizer)
        return
    begin, stop_ids = tokenizer.special_tokens.get(DOCUMENT_END), ending_ids(tokenizer)
    if settings.stop and not stop_ids:
        print(
            f"{folder}: the tokenizer has no <|endoftext|>, so each text continues to max_tokens",
            file=sys.stderr,
        )
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    if begin is not None:
        ids = [row or [begin] for row in ids]
    elif not all(ids):
        raise UserError("the tokenizer has no <|endoftext|> to start a text from; give --prompt")

    printer = _StreamPrinter(tokenizer, prompts[0]) if len(prompts) == 1 else None
    start = time.perf_counter()
    with autocast(device, precision):
        new = generate(
            model, ids, settings.max_tokens,
            temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, seed=settings.seed,
            stop_ids=stop_ids if settings.stop else (), kv_cache=settings.kv_cache, compile=settings.compile,
            on_tokens=printer,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    if printer is not None:
        printer.finish()
    else:
        for number, (prompt, row) in enumerate(zip(prompts, new, strict=True), 1):
            print(f"--- {number}\n{prompt}{tokenizer.decode(row)}")
    count = sum(map(len, new))
    mode = "with" if settings.kv_cache else "without"
    print(
        f"{folder}: {count} tokens in {seconds:.2f} s, {count / seconds:,.0f} tokens/s {mode} KV cache on {device}",
        file=sys.stderr,
    )


def _talk(settings: GenerateSettings, sampling, model, tokenizer) -> None:
    """Answers the lines of standard input.

    Reports and skips messages that are too long; with piped input their answer is an empty line and the command exits
    with an error at the end. On a terminal, Ctrl-C interrupts an answer, or ends the chat at the prompt.
    """
    from lmfast.inference.chat import Chat

    def begin() -> Chat:
        return Chat(
            model, tokenizer, system=settings.system, max_tokens=settings.max_tokens, sampling=sampling,
            kv_cache=settings.kv_cache, compile=settings.compile,
        )  # fmt: skip

    with standard_input() as stdin:
        asking = stdin.isatty()
    talk, lines, skipped = begin(), 0, 0
    while True:
        if asking:
            print("> ", end="", file=sys.stderr, flush=True)
        with standard_input() as stdin:
            line = stdin.readline()
        lines += 1
        _reject_surrogates("standard input", line)
        text = line.strip()
        if not line or text == "/exit":
            break
        if text == "/reset":
            talk = begin()
        elif text:
            known = talk.forgotten
            try:
                with contextlib.closing(talk.say(text)) as answer:
                    for piece in answer:
                        print(piece, end="", flush=True)
                print(flush=True)
            except KeyboardInterrupt:
                if not asking:
                    raise
                print(flush=True)
            except UserError as error:
                skipped += 1
                print(f"error: {'' if asking else f'line {lines}: '}{error}", file=sys.stderr)
                if not asking:
                    print(flush=True)
            if talk.forgotten > known:
                print(
                    f"(the context is full; dropped the first {talk.forgotten} messages)",
                    file=sys.stderr,
                )
    if skipped and not asking:
        raise UserError(f"standard input: skipped {skipped} of {lines - 1} lines; shorten them")


def _split_prompts(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """(other arguments, prompts). Accepts `--prompt a b`, `--prompt a --prompt b` and `--prompt=--a`."""
    rest, prompts, taking = [], [], False
    for word in argv:
        name, equals, value = word.partition("=")
        if name in ("--prompt", "--prompts"):
            prompts += [value] if equals else []
            taking = not equals
        elif taking and not word.startswith("--"):
            prompts.append(word)
        else:
            taking = False
            rest.append(word)
    return rest, tuple(prompts)


def _prompts(settings: GenerateSettings) -> list[str]:
    prompts = list(settings.prompt)
    for prompt in prompts:
        _reject_surrogates(f"prompt {prompt!r}", prompt)
    if settings.prompt_file is not None:
        found = _split(_read(settings.prompt_file), settings.prompt_separator)
        if not found:
            raise UserError(f"{settings.prompt_file}: contains no prompt; write one per line")
        prompts += found
    elif not prompts and input_is_piped():
        print("reading prompts from standard input (for none: </dev/null or --prompt '')", file=sys.stderr)
        prompts = _split(_read("-"), settings.prompt_separator)
    return prompts or [""]


def _read(name: str) -> str:
    """The text of a prompt file, or of standard input for -."""
    if name != "-":
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such prompt file; check the path")
        return read_text(path)
    with standard_input() as stdin:
        text = stdin.read()
    _reject_surrogates("standard input", text)
    return text.removeprefix("\ufeff")


def _split(text: str, separator: str) -> list[str]:
    r"""Splits a text into prompts; drops blank ones and the line breaks around each.

    >>> _split("a\n\nb\n", r"\n"), _split("a\nb\n---\nc\n", "---"), _split("a\n\nb\n", "")
    (['a', 'b'], ['a\nb', 'c'], ['a\n\nb'])
    """
    parts = text.split(unescape(separator)) if separator else [text]
    return [part.strip("\r\n") for part in parts if part.strip()]


def _reject_surrogates(what: str, text: str) -> None:
    """Raises UserError for input that was not UTF-8: in the C locale, Python decodes such bytes as surrogates."""
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{what}: not UTF-8 text; convert it first")


class _StreamPrinter:
    """Prints the text of one sequence token by token, whole characters only."""

    def __init__(self, tokenizer, prompt: str):
        import codecs

        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        print(prompt, end="", flush=True)

    def __call__(self, ids: list[int | None]) -> None:
        if ids[0] is not None:
            print(self.decoder.decode(self.tokenizer.decode_bytes(ids)), end="", flush=True)

    def finish(self) -> None:
        print(self.decoder.decode(b"", final=True), flush=True)


if __name__ == "__main__":
    main()
