"""The command line of `python -m lmfast.tokenizer train|encode|decode|inspect|count|compression`.

Only parses the arguments, without numpy and numba, so that `--help` is fast; cli/tokenizer does the work.
Bad input prints one line on stderr and exits with code 2. LOG_LEVEL=DEBUG prints the most frequent
pretokens and every pair as it is chosen. Options may be written with dashes or underscores.
"""

import importlib
import sys
from collections.abc import Sequence

from lmfast.cli.arguments import (
    Parser,
    add_engine,
    add_tokenizer,
    add_workers,
    new_special_token,
    number_of_bytes,
    parser_of,
    positive,
    set_log_level,
)
from lmfast.errors import exit_on_user_error

TEXT_FIELD_HELP = "field or column of records and Parquet that contains the text (default: text)"


def build_parser() -> Parser:
    parser, command = parser_of(
        "lmfast.tokenizer",
        "Byte-level BPE: train a vocabulary, encode text to token files, and inspect both.",
    )
    train = command("train", "learn a vocabulary from text, JSON lines or Parquet")
    train.add_argument(
        "--input", nargs="+", required=True, metavar="TEXT", help="files, folders or globs; also .gz and .zst"
    )
    train.add_argument("--output", required=True, metavar="FOLDER", help="folder for the tokenizer")
    train.add_argument(
        "--vocab-size",
        type=positive,
        required=True,
        help="number of bytes, merges and special tokens together",
    )
    train.add_argument(
        "--special-tokens",
        nargs="*",
        type=new_special_token,
        default=["<|endoftext|>"],
        metavar="TOKEN",
        help="default: <|endoftext|>",
    )
    train.add_argument("--text-field", default="text", metavar="NAME", help=TEXT_FIELD_HELP)
    train.add_argument(
        "--pattern", default="gpt2", help="gpt2 (default), cl100k, o200k, or a regular expression"
    )
    train.add_argument(
        "--max-memory",
        type=number_of_bytes,
        metavar="SIZE",
        help="memory for counting, such as 2GB; above it, counts spill to disk",
    )
    add_workers(train)
    add_engine(train)

    encode = command("encode", "encode a text file to a token file (.npy); - means standard input or output")
    encode.add_argument("--input", required=True, metavar="TEXT", help="text file, or -")
    encode.add_argument("--output", required=True, metavar="IDS", help=".npy file, or - for ids as text")
    add_tokenizer(encode)
    add_workers(encode)
    add_engine(encode)

    decode = command("decode", "decode a token file to text")
    decode.add_argument("--input", required=True, metavar="IDS", help=".npy, .bin, text of ids, or -")
    decode.add_argument("--output", default="-", metavar="TEXT", help="text file, or - (the default)")
    add_tokenizer(decode)

    inspect = command("inspect", "show how a text is split into tokens, or what a vocabulary contains")
    inspect.add_argument(
        "--input",
        metavar="FILE",
        help="text, JSON lines, Parquet (also .gz, .zst), a token file, SFT or DPO data, or -; default: the vocabulary",
    )
    inspect.add_argument(
        "--document", type=int, default=0, metavar="N", help="first document to show, from 0 (default: 0)"
    )
    inspect.add_argument(
        "--documents",
        type=positive,
        metavar="K",
        help="number of documents to show (default: 1, with --html 20)",
    )
    inspect.add_argument(
        "--limit", type=positive, default=2000, help="maximum tokens shown per document (default: 2000)"
    )
    inspect.add_argument("--html", metavar="PAGE", help="write an HTML page, such as x.html, instead")
    inspect.add_argument(
        "--verify",
        action="store_true",
        help="decode the whole file and compare it with its source; show nothing",
    )
    inspect.add_argument(
        "--source", metavar="TEXT", help="the text that a token file was encoded from, to compare with"
    )
    inspect.add_argument("--text-field", default="text", metavar="NAME", help=TEXT_FIELD_HELP)
    inspect.add_argument("--skip-bad", action="store_true", help="skip bad records of SFT and DPO data")
    inspect.add_argument(
        "--longest", type=positive, default=20, help="number of longest tokens to show (default: 20)"
    )
    inspect.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="default: auto")
    add_tokenizer(inspect)

    count = command("count", "count the tokens in token files or folders of them")
    count.add_argument(
        "--input", nargs="+", required=True, metavar="IDS", help="token files, or folders of them"
    )

    compression = command("compression", "measure bytes per token and encoding speed of tokenizers on texts")
    compression.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="TEXT",
        help="text, JSON lines, Parquet; also .gz and .zst",
    )
    compression.add_argument(
        "--n", type=positive, default=10, help="documents to sample from each text (default: 10)"
    )
    compression.add_argument("--seed", type=int, default=42, help="seed of the sample (default: 42)")
    compression.add_argument("--text-field", default="text", metavar="NAME", help=TEXT_FIELD_HELP)
    add_tokenizer(compression, many=True)
    return parser


def main(words: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if words is None else words)
        set_log_level()
        modules = {"inspect": "inspecting", "count": "measuring", "compression": "measuring"}
        module = importlib.import_module(f"lmfast.cli.tokenizer.{modules.get(arguments.command, 'commands')}")
        getattr(module, arguments.command)(arguments)


if __name__ == "__main__":
    main()
