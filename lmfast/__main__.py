"""python -m lmfast COMMAND, and the console script `lmfast`: the list of commands, each a module of its own."""

import importlib
import sys

from lmfast.errors import UserError, exit_on_user_error

COMMANDS = {
    "quickstart": ("lmfast.quickstart", "from nothing to a small story-telling model, in minutes"),
    "tokenizer": (
        "lmfast.tokenizer.__main__",
        "train a tokenizer; encode, decode, inspect, count, compression",
    ),
    "data": (
        "lmfast.data.__main__",
        "fetch corpora by name; prepare token files of any text; their statistics",
    ),
    "train": ("lmfast.train", "train a language model on a token file"),
    "sft": ("lmfast.sft", "teach a base model to answer, from instructions or conversations"),
    "dpo": ("lmfast.dpo", "teach a model that talks which of two answers is better"),
    "generate": ("lmfast.generate", "continue prompts with a trained model"),
    "evaluate": ("lmfast.evaluate", "measure a trained model: loss on a token file, figures of its text"),
    "flops": ("lmfast.flops", "count a model's parameters, FLOPs, memory and training time"),
    "report": ("lmfast.report", "compare runs on one HTML page"),
    "completion": ("lmfast.completion", "print a script that completes commands and options in your shell"),
}


def main() -> None:
    with exit_on_user_error():
        words = sys.argv[1:]
        if not words or words[0] in ("-h", "--help"):
            print(usage())
        elif words[0] == "--version":
            from lmfast import __version__

            print(f"lmfast {__version__}")
        elif words[0] not in COMMANDS:
            from lmfast.suggestions import remedy

            near = remedy(words[0].replace("-", "_"), COMMANDS, dashes="")
            listed = f"there are {', '.join(COMMANDS)}"
            raise UserError(f"unknown command '{words[0]}'; {near or listed}")
        else:
            sys.argv = [f"lmfast {words[0]}", *words[1:]]
            importlib.import_module(COMMANDS[words[0]][0]).main()


def usage() -> str:
    lines = ["usage: lmfast COMMAND [OPTIONS]    (lmfast COMMAND --help lists a command's options)", ""]
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
