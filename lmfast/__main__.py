"""python -m lmfast COMMAND and the console script `lmfast`: runs the module of a command."""

import importlib
import sys

from lmfast import __version__
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.errors import UserError
from lmfast.suggestions import remedy

COMMANDS = {
    "quickstart": ("lmfast.quickstart", "train a small story-telling model from scratch, in minutes"),
    "data": ("lmfast.data.__main__", "download corpora, write token files, print their statistics"),
    "tokenizer": ("lmfast.tokenizer.__main__", "train a tokenizer; encode, decode, inspect, count, compare"),
    "recipe": ("lmfast.recipe", "run a whole job, from text to an evaluated and exported model"),
    "train": ("lmfast.train", "train a language model on token files"),
    "sft": ("lmfast.sft", "fine-tune a base model on instructions or conversations"),
    "dpo": ("lmfast.dpo", "train a chat model on preferences"),
    "generate": ("lmfast.generate", "generate text with a trained model, or chat with it"),
    "serve": ("lmfast.serve", "serve a model over HTTP, with OpenAI's API and a chat page"),
    "evaluate": ("lmfast.evaluate", "measure a model: loss, statistics of its text, standard tasks"),
    "sweep": ("lmfast.sweep", "train with many combinations of settings and compare them"),
    "report": ("lmfast.report", "compare runs on one HTML page, or show the loss of every token of a text"),
    "import": ("lmfast.import", "turn a model in Hugging Face's format into a run"),
    "export": ("lmfast.export", "write a trained model as files that other programs load"),
    "flops": ("lmfast.flops", "count the parameters, FLOPs, memory and training time of a model"),
    "completion": ("lmfast.completion", "print a shell completion script"),
}


def main() -> None:
    with exit_on_user_error():
        words = sys.argv[1:]
        if not words or words[0] in ("-h", "--help"):
            print(usage())
        elif words[0] == "--version":
            print(f"lmfast {__version__}")
        elif words[0] not in COMMANDS:
            near = remedy(words[0].replace("-", "_"), COMMANDS, dashes="")
            listed = f"the commands are {', '.join(COMMANDS)}"
            raise UserError(f"unknown command '{words[0]}'; {near or listed}")
        else:
            sys.argv = [f"lmfast {words[0]}", *words[1:]]
            importlib.import_module(COMMANDS[words[0]][0]).main()


def usage() -> str:
    lines = [
        "usage: lmfast COMMAND [OPTIONS]",
        "",
        "Train language models, from raw text to chat.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "lmfast COMMAND --help lists the options of a command."])


if __name__ == "__main__":
    main()
