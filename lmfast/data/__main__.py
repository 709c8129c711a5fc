"""python -m lmfast.data download|stories|prepare|stats: the command line of lmfast/cli/data/commands.py."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from lmfast.cli.arguments import (
    AddCommand,
    Parser,
    add_engine,
    add_tokenizer,
    add_workers,
    command_parser,
    parse_size,
    positive_int,
    set_log_level,
    unescape,
)
from lmfast.cli.exit_codes import exit_on_user_error


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction (at least 0 and below 1)")
    return value


def separator(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; remove it, or write '\\n\\n' for a blank line")
    return unescape(text)


def build_parser() -> Parser:
    parser, command = command_parser(
        "lmfast.data", "Download corpora, write token files, and print their statistics."
    )
    _download_options(command)
    _stories_options(command)
    _prepare_options(command)
    _stats_options(command)
    return parser


def _download_options(command: AddCommand) -> None:
    download = command("download", "download a corpus from the Hugging Face Hub")
    download.add_argument("name", nargs="?", metavar="NAME", help="corpus; lists all names if omitted")
    download.add_argument("--output", metavar="FOLDER", help="output folder (default: data/NAME)")
    download.add_argument("--repo", metavar="OWNER/NAME", help="download the files of any dataset, unchanged")
    download.add_argument(
        "--files", nargs="+", metavar="GLOB", help="files of --repo, such as 'data/*.parquet'"
    )
    download.add_argument(
        "--limit-files",
        type=positive_int,
        metavar="N",
        help="only the first N files (fineweb-10bt, fineweb-edu-10bt, --repo)",
    )
    download.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: main)")
    download.add_argument(
        "--from", dest="source", metavar="FOLDER", help="use files already downloaded to this folder"
    )


def _stories_options(command: AddCommand) -> None:
    stories = command("stories", "write the built-in stories, a tokenizer and token files of them")
    stories.add_argument(
        "--output", default="data/stories", metavar="FOLDER", help="output folder (default: data/stories)"
    )
    stories.add_argument(
        "--vocab-size",
        type=positive_int,
        default=4096,
        metavar="N",
        help="ids of the tokenizer; tokenizer and token files go to FOLDER/N (default: 4096)",
    )
    for part, size in (("train", "20MB"), ("valid", "200kB")):
        stories.add_argument(
            f"--{part}-bytes",
            type=parse_size,
            default=parse_size(size),
            metavar="SIZE",
            help=f"size of {part}.txt (default: {size})",
        )


def _prepare_options(command: AddCommand) -> None:
    prepare = command(
        "prepare", "turn text, JSON lines or Parquet into token files for training and validation"
    )
    prepare.add_argument(
        "--input", nargs="+", required=True, metavar="TEXT", help="files, folders or globs; .gz and .zst too"
    )
    prepare.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder for train.npy, valid.npy and token_counts.json",
    )
    add_tokenizer(prepare)
    prepare.add_argument(
        "--val-fraction",
        type=share,
        metavar="P",
        help="fraction of documents, chosen by hash, for validation (default: 0.01)",
    )
    prepare.add_argument(
        "--val-tokens",
        type=positive_int,
        metavar="N",
        help="use the first N tokens for validation, rounded up to whole documents",
    )
    prepare.add_argument("--val-input", nargs="+", metavar="TEXT", help="separate files for validation")
    prepare.add_argument("--seed", type=int, help="seed of the choice of validation documents (default: 0)")
    prepare.add_argument(
        "--text-field",
        default="text",
        metavar="NAME",
        help="field of JSON lines, column of Parquet (default: text)",
    )
    prepare.add_argument(
        "--separator",
        type=separator,
        metavar="TEXT",
        help=r"further document separator, in addition to <|endoftext|>, such as '\n\n'",
    )
    prepare.add_argument(
        "--create-stats", action="store_true", help="also write stats.txt, stats.json and stats.png"
    )
    add_workers(prepare)
    add_engine(prepare, "processes", "input per job (default: 64MB)")


def _stats_options(command: AddCommand) -> None:
    stats = command("stats", "print documents, bytes per token, lengths and vocabulary use of token files")
    stats.add_argument(
        "--input", nargs="+", required=True, metavar="IDS", help="token files, or folders of them"
    )
    stats.add_argument("--output", metavar="FOLDER", help="folder for stats.txt, stats.json and stats.png")
    add_tokenizer(stats)


def main(words: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if words is None else words)
        set_log_level()
        module = importlib.import_module("lmfast.cli.data.commands")
        getattr(module, arguments.command)(arguments)


if __name__ == "__main__":
    main()
