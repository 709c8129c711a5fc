"""python -m lmfast.generate: continue prompts with a trained model.

Prompts come from the command line, a file or a pipe. The text of one prompt streams to standard output; with several
prompts each text is printed when all are complete. Everything else goes to standard error.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.cli.prompts import read_prompts, take_prompts
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.errors import UserError
from lmfast.model.torch_environment import set_environment
from lmfast.settings import Option, selected_precision
from lmfast.streams import standard_output


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
    quantize: Literal["int8"] | None = None
    """int8: store weights in 8 bits; only on a CPU, where all else stays float32"""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """device to run on"""


def build_parser() -> SettingsParser:
    return SettingsParser(GenerateSettings, "lmfast generate")


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        rest, prompts = take_prompts(sys.argv[1:] if argv is None else argv)
        settings = parse(GenerateSettings, rest, "lmfast generate")
        generate_text(dataclasses.replace(settings, prompt=prompts))


def check_settings(settings: GenerateSettings) -> None:
    """Raises UserError for options that do not belong together, and values out of range."""
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
    selected_precision(settings)
    if settings.quantize is not None:
        _reject_with_quantize(settings)


def generate_text(settings: GenerateSettings) -> None:
    """Loads the run, continues the prompts, prints the text and the rate. Raises UserError on bad input."""
    standard_output()
    check_settings(settings)
    prompts = []
    if not settings.chat:
        prompts = read_prompts(settings.prompt, settings.prompt_file, settings.prompt_separator)
    set_environment()
    from lmfast.cli.generating import load_and_generate

    load_and_generate(settings, prompts)


def _reject_with_quantize(settings: GenerateSettings) -> None:
    """Raises UserError naming a setting that does not work with `quantize`."""
    flags = {
        "--bf16": settings.bf16,
        "--fp16": settings.fp16,
        "--compile": settings.compile,
        "--no-kv-cache": not settings.kv_cache,
        f"--device {settings.device}": settings.device not in ("auto", "cpu"),
    }
    for flag, given in flags.items():
        if given:
            raise UserError(
                f"--quantize {settings.quantize} computes in float32 on a CPU, with the KV cache; remove {flag}"
            )


if __name__ == "__main__":
    main()
