"""python -m lmfast.generate: continue prompts with a trained model.

Prompts come from the command line, from a file, or from a pipe. Text streams to standard output as it is made (several
prompts: each is printed when it ends); everything else goes to standard error.
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
    """Continue prompts with a trained model."""

    checkpoint: str | None = None
    """run folder, or one of its checkpoints; the newest run under runs/ when not set"""
    prompt: Annotated[tuple[str, ...], Option(aliases=("prompts",))] = ()
    """text to continue; several make a batch. Without one, what is piped in; without that, a text begins at <|endoftext|>"""
    prompt_file: str | None = None
    """file with one prompt a line; - reads standard input"""
    prompt_separator: str = "\\n"
    """what stands between the prompts of a file or of piped text, such as '\\n---\\n' for prompts of several lines; '' makes
    all of it one prompt. Line breaks around a prompt are left out"""
    chat: bool = False
    """talk with a model of lmfast.sft or lmfast.dpo: a line from standard input is a turn, /reset forgets, /exit ends"""
    system: str | None = None
    """chat: what the model is told before the first turn"""
    max_tokens: int = 256
    """most new tokens for each prompt"""
    temperature: float = 0.8
    """divides the logits; 0 is greedy"""
    top_k: int | None = None
    """sample among so many most likely tokens"""
    top_p: float | None = 0.95
    """sample among the most likely tokens that together reach this probability"""
    seed: int = 0
    """the same seed gives the same text"""
    stop: bool = True
    """end a text at <|endoftext|>, and at <|end|> where the run has learnt to talk; --no-stop goes on to max_tokens"""
    kv_cache: bool = True
    """keep keys and values of earlier tokens; --no-kv-cache recomputes them, for comparison"""
    compile: bool = False
    """decode through torch.compile: seconds to begin with, fewer a token on a GPU; a CPU in float32 needs none"""
    bf16: bool = False
    """compute in bfloat16: faster on a GPU; with and without cache the logits agree within 2 % of the largest"""
    fp16: bool = False
    """compute in float16: for a GPU without bfloat16"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """where to compute"""


def build_parser() -> SettingsParser:
    return SettingsParser(GenerateSettings, "lmfast generate")


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        rest, prompts = _split_prompts(sys.argv[1:] if argv is None else argv)
        settings = parse(GenerateSettings, rest, "lmfast generate")
        generate_text(dataclasses.replace(settings, prompt=prompts))


def generate_text(settings: GenerateSettings) -> None:
    """Loads the run, continues the prompts, prints text and rate. Raises UserError on bad input."""
    standard_output()
    if settings.chat and (settings.prompt or settings.prompt_file is not None):
        raise UserError(
            "--chat reads turns from standard input; leave --prompt and --prompt-file out, or --chat"
        )
    if settings.chat and not settings.stop:
        raise UserError("--chat ends each answer with its turn; leave --no-stop out, or --chat")
    if settings.system is not None and not settings.chat:
        raise UserError("--system is for --chat; give both, or neither")
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
    )  # refuses before the model is loaded
    device = pick_device(settings.device)
    if settings.compile and (reason := compile_blocker(device)):
        raise UserError(f"--compile cannot work here: {reason}; leave it out")
    folder = Path(settings.checkpoint) if settings.checkpoint else newest_run()
    model, tokenizer, _ = load_run(folder, device=str(device))
    if tokenizer is None:
        raise UserError(f"{folder}: the run has no tokenizer, so text cannot be made; train with --tokenizer")
    if settings.chat:
        with autocast(device, precision):
            _talk(settings, sampling, model, tokenizer)
        return
    begin, stop_ids = tokenizer.special_tokens.get(DOCUMENT_END), ending_ids(tokenizer)
    if settings.stop and not stop_ids:
        print(
            f"{folder}: the tokenizer has no <|endoftext|>, so each text goes on to max_tokens",
            file=sys.stderr,
        )
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    if begin is not None:
        ids = [row or [begin] for row in ids]
    elif not all(ids):
        raise UserError("the tokenizer has no <|endoftext|> to begin a text with; give --prompt")

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
    """Answers the lines of standard input until they end. A message that is too long is reported and skipped; from a pipe
    its answer is an empty line, and the command fails at the end. On a terminal each line is asked for, and Ctrl-C ends an
    answer (at the question, the talk)."""
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
                    f"(the context is full: the first {talk.forgotten} messages are forgotten)",
                    file=sys.stderr,
                )
    if skipped and not asking:
        raise UserError(f"standard input: {skipped} of {lines - 1} lines were skipped; shorten them")


def _split_prompts(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The words without their prompts, and the prompts: `--prompt a b`, `--prompt a --prompt b` and `--prompt=--a`."""
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
            raise UserError(f"{settings.prompt_file}: no prompt in it; write one a line")
        prompts += found
    elif not prompts and input_is_piped():
        print("reading prompts from standard input (none: </dev/null or --prompt '')", file=sys.stderr)
        prompts = _split(_read("-"), settings.prompt_separator)
    return prompts or [""]


def _read(name: str) -> str:
    """The text of a prompt file, or for - of standard input."""
    if name != "-":
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such prompt file")
        return read_text(path)
    with standard_input() as stdin:
        text = stdin.read()
    _reject_surrogates("standard input", text)
    return text.removeprefix("\ufeff")


def _split(text: str, separator: str) -> list[str]:
    r"""The prompts of a text: what stands between separators, blank ones left out.

    >>> _split("a\n\nb\n", r"\n"), _split("a\nb\n---\nc\n", "---"), _split("a\n\nb\n", "")
    (['a', 'b'], ['a\nb', 'c'], ['a\n\nb'])
    """
    parts = text.split(unescape(separator)) if separator else [text]
    return [part.strip("\r\n") for part in parts if part.strip()]


def _reject_surrogates(what: str, text: str) -> None:
    """Raises UserError for bytes that were no UTF-8, which Python's C locale hides in surrogates."""
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{what}: not UTF-8 text; convert it first")


class _StreamPrinter:
    """Prints one sequence's text as its tokens come, never half a character."""

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
