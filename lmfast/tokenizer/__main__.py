"""python -m lmfast.tokenizer train|encode|decode|inspect|count|compression: the command line, and nothing else.

Words are parsed here with argparse (`--help` answers at once: no numpy, no numba), work is done in commands.py,
inspecting.py and measuring.py. Bad input is one line on stderr and exit code 2. LOG_LEVEL=DEBUG shows the most frequent
pretokens and every pair as it is chosen. `--vocab-size` may be spelt `--vocab_size`, and so on.
"""

import argparse
import difflib
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence

from lmfast.errors import UserError, exit_on_user_error

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Parser(argparse.ArgumentParser):
    """Errors are `UserError`s of one line; an unknown option comes with the nearest known one."""

    def error(self, message: str):
        unknown = re.match(r"unrecognized arguments: (--\S+)", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], self.options(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            raise UserError(f"unknown option {unknown[1]}; {hint}")
        raise UserError(f"{message}; see {self.prog} --help")

    def options(self) -> list[str]:
        words = [word for action in self._actions for word in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                words += [word for parser in action.choices.values() for word in parser.options()]
        return words


def number_of_bytes(text: str) -> int:
    """ "2GB" → 2_000_000_000 (powers of a thousand)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 500MB or 2GB")
    return int(float(match[1]) * UNITS[match[2]])


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m lmfast.tokenizer" if sys.argv[0].endswith("__main__.py") else sys.argv[0],
        description="Byte-level BPE: train a vocabulary, turn text into token files, and look inside.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> Parser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    train = command("train", "learn a vocabulary from text files")
    train.add_argument("--input", nargs="+", required=True, metavar="TEXT", help="one or many text files")
    train.add_argument("--output", required=True, metavar="FOLDER", help="folder for the tokenizer")
    train.add_argument("--vocab-size", type=positive, required=True, help="bytes, merges and special tokens")
    train.add_argument(
        "--special-tokens",
        nargs="*",
        default=["<|endoftext|>"],
        metavar="TOKEN",
        help="default: <|endoftext|>",
    )
    train.add_argument("--pattern", default="gpt2", help="gpt2, cl100k, o200k, or a regular expression")
    train.add_argument(
        "--max-memory", type=number_of_bytes, metavar="SIZE", help="for counting, e.g. 2GB; beyond, to disk"
    )
    add_workers(train)
    add_engine(train)

    encode = command("encode", "text file → token file (.npy), or - for standard input and output")
    encode.add_argument("--input", required=True, metavar="TEXT", help="text file, or -")
    encode.add_argument("--output", required=True, metavar="IDS", help=".npy file, or - for ids as text")
    add_tokenizer(encode)
    add_workers(encode)
    add_engine(encode)

    decode = command("decode", "token file → text")
    decode.add_argument("--input", required=True, metavar="IDS", help=".npy, .bin, text of ids, or -")
    decode.add_argument("--output", default="-", metavar="TEXT", help="text file, or - (the default)")
    add_tokenizer(decode)

    inspect = command("inspect", "how a text was split, or what a vocabulary holds")
    inspect.add_argument(
        "--input",
        metavar="FILE",
        help="text, JSON lines, Parquet (also .gz, .zst), a token file, SFT or DPO data, or -; without it, the vocabulary",
    )
    inspect.add_argument("--document", type=int, default=0, metavar="N", help="the first one shown, from 0")
    inspect.add_argument(
        "--documents", type=positive, metavar="K", help="how many are shown (1; on a page 20)"
    )
    inspect.add_argument("--limit", type=positive, default=2000, help="most tokens of each (default 2000)")
    inspect.add_argument("--html", metavar="PAGE", help="write a page instead: x.html")
    inspect.add_argument(
        "--verify", action="store_true", help="decode the whole file and compare, show nothing"
    )
    inspect.add_argument(
        "--source", metavar="TEXT", help="the text that a token file was made of, to compare with"
    )
    inspect.add_argument("--text-field", default="text", metavar="NAME", help="of records and Parquet (text)")
    inspect.add_argument("--skip-bad", action="store_true", help="of SFT and DPO data, leave bad records out")
    inspect.add_argument("--longest", type=positive, default=20, help="how many of the longest tokens (20)")
    inspect.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="default: auto")
    add_tokenizer(inspect)

    count = command("count", "how many tokens files or folders of token files hold")
    count.add_argument(
        "--input", nargs="+", required=True, metavar="IDS", help="token files, or folders of them"
    )

    compression = command("compression", "bytes per token of tokenizers on texts, and encoding speed")
    compression.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="TEXT",
        help="text, JSON lines, Parquet; also .gz and .zst",
    )
    compression.add_argument("--n", type=positive, default=10, help="documents sampled from each text (10)")
    compression.add_argument("--seed", type=int, default=42, help="of the sample (42)")
    compression.add_argument(
        "--text-field", default="text", metavar="NAME", help="of records and Parquet (text)"
    )
    add_tokenizer(compression, many=True)
    return parser


def add_workers(parser: Parser, what: str = "threads") -> None:
    parser.add_argument(
        "--num-workers", "--num-proc", type=positive, metavar="N", help=f"{what} (default: all CPUs)"
    )


def add_engine(
    parser: Parser,
    engines: str = "threads here, or a dask cluster (local)",
    shards: str = "with --engine dask: what a worker takes at a time (256MB)",
) -> None:
    """--engine and what belongs to it."""
    parser.add_argument("--engine", choices=["local", "dask"], default="local", help=engines)
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a dask cluster, tcp://host:8786 or its scheduler file; default: workers on this machine",
    )
    parser.add_argument("--shard-size", type=number_of_bytes, metavar="SIZE", help=shards)


def add_tokenizer(parser: Parser, many: bool = False) -> None:
    parser.add_argument(
        "--tokenizer",
        nargs="+" if many else None,
        metavar="FOLDER",
        help="folder or file" + (", one or many" if many else ""),
    )
    parser.add_argument("--vocab", metavar="JSON", help="vocab.json, instead of --tokenizer")
    parser.add_argument("--merges", metavar="TXT", help="merges.txt, with --vocab")
    parser.add_argument(
        "--special-tokens", nargs="*", metavar="TOKEN", help="where the tokenizer's files do not name them"
    )
    parser.add_argument("--pattern", help="where the tokenizer's files do not name it")


def with_dashes(words: Sequence[str]) -> list[str]:
    """--vocab_size → --vocab-size; values stay as they are."""
    return [
        re.sub(r"^--[a-z_]+", lambda name: name[0].replace("_", "-"), word) if word.startswith("--") else word
        for word in words
    ]


def set_log_level() -> None:
    level = os.environ.get("LOG_LEVEL", "WARNING").upper()
    if level not in logging.getLevelNamesMapping():
        raise UserError(f"LOG_LEVEL={level}: no such level; use DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=level, format="%(message)s", force=True)
    for name in ("numba", "asyncio"):  # their DEBUG output is not about the user's text
        logging.getLogger(name).setLevel(logging.WARNING)


def main(words: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(with_dashes(sys.argv[1:] if words is None else words))
        set_log_level()
        home = {"inspect": "inspecting", "count": "measuring", "compression": "measuring"}
        module = importlib.import_module(f"lmfast.tokenizer.{home.get(arguments.command, 'commands')}")
        getattr(module, arguments.command)(arguments)


if __name__ == "__main__":
    main()
