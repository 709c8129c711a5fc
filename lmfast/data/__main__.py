"""python -m lmfast.data download|prepare|stats: the command line, and nothing else.

The command line is parsed here (`--help` answers at once); the work is done in cli/data. Bad
input is one line on stderr and exit code 2. `--val_fraction` is `--val-fraction`, and so on.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from lmfast.cli.arguments import (
    Parser,
    add_engine,
    add_tokenizer,
    add_workers,
    command_parser,
    positive_int,
    set_log_level,
    unescape,
)
from lmfast.errors import exit_on_user_error


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to below 1")
    return value


def separator(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; leave it out, or write '\\n\\n' for a blank line")
    return unescape(text)


def build_parser() -> Parser:
    parser, command = command_parser(
        "lmfast.data", "Corpora by name, text to token files in parts, and what they hold."
    )
    download = command("download", "fetch a corpus from the Hugging Face Hub and bring it into form")
    download.add_argument("name", nargs="?", metavar="NAME", help="without it, the list of names")
    download.add_argument("--output", metavar="FOLDER", help="default: data/NAME")
    download.add_argument("--repo", metavar="OWNER/NAME", help="any dataset instead; its files as they are")
    download.add_argument(
        "--files", nargs="+", metavar="GLOB", help="with --repo: which (e.g. 'data/*.parquet')"
    )
    download.add_argument(
        "--limit-files",
        type=positive_int,
        metavar="N",
        help="only the first N files, of fineweb-10bt, fineweb-edu-10bt or --repo",
    )
    download.add_argument("--revision", metavar="REV", help="branch, tag or commit (main)")
    download.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="a folder with the repository's files, fetched otherwise",
    )

    prepare = command("prepare", "text, JSON lines or Parquet → token files for training and validation")
    prepare.add_argument(
        "--input", nargs="+", required=True, metavar="TEXT", help="files, folders or globs; also .gz and .zst"
    )
    prepare.add_argument(
        "--output", required=True, metavar="FOLDER", help="for train.npy, valid.npy, token_counts.json"
    )
    prepare.add_argument(
        "--val-fraction",
        type=share,
        metavar="P",
        help="share of documents for validation, by their hash (0.01)",
    )
    prepare.add_argument(
        "--val-tokens",
        type=positive_int,
        metavar="N",
        help="instead: the first N tokens for validation, up to the end of a document",
    )
    prepare.add_argument("--val-input", nargs="+", metavar="TEXT", help="sources of their own for validation")
    prepare.add_argument("--seed", type=int, help="which documents are for validation (0)")
    prepare.add_argument(
        "--text-field", default="text", metavar="NAME", help="of JSON lines and Parquet (text)"
    )
    prepare.add_argument(
        "--separator",
        type=separator,
        metavar="TEXT",
        help=r"ends documents beside <|endoftext|>, e.g. '\n\n'",
    )
    prepare.add_argument(
        "--create-stats", action="store_true", help="stats.txt, stats.json and stats.png too"
    )
    add_tokenizer(prepare)
    add_workers(prepare, "processes")
    add_engine(prepare, "processes here, or a dask cluster (local)", "what is done and kept at a time (64MB)")

    stats = command("stats", "documents, bytes a token, lengths and use of the vocabulary of token files")
    stats.add_argument(
        "--input", nargs="+", required=True, metavar="IDS", help="token files, or folders of them"
    )
    stats.add_argument("--output", metavar="FOLDER", help="for stats.txt, stats.json and stats.png")
    add_tokenizer(stats)
    return parser


def main(words: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if words is None else words)
        set_log_level()
        module = importlib.import_module("lmfast.cli.data.commands")
        getattr(module, arguments.command)(arguments)


if __name__ == "__main__":
    main()
