"""python -m lmfast.tokenizer train|encode|decode|inspect|count|compression: the command line, and nothing else.

The command line is parsed here (`--help` answers at once: no numpy, no numba); the work is done in cli/tokenizer.
Bad input is one line on stderr and exit code 2. LOG_LEVEL=DEBUG shows the most frequent
pretokens and every pair as it is chosen. `--vocab-size` may be spelt `--vocab_size`, and so on.
"""

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
    new_special_token,
    parse_size,
    positive_int,
    set_log_level,
)
from lmfast.cli.exit_codes import exit_on_user_error

TEXT_FIELD = "field of JSON lines, column of Parquet (default: text)"


def build_parser() -> Parser:
    parser, command = command_parser(
        "lmfast.tokenizer",
        "Train byte-level BPE tokenizers, convert between text and token files, inspect and compare.",
    )
    _train_options(command)
    _encode_options(command)
    _decode_options(command)
    _inspect_options(command)
    _count_options(command)
    _compression_options(command)
    return parser


def _train_options(command: AddCommand) -> None:
    train = command("train", "train a tokenizer on text, JSON lines or Parquet")
    train.add_argument(
        "--input", nargs="+", required=True, metavar="TEXT", help="files, folders or globs; .gz and .zst too"
    )
    train.add_argument("--output", required=True, metavar="FOLDER", help="folder for the tokenizer")
    train.add_argument(
        "--vocab-size",
        type=positive_int,
        required=True,
        metavar="N",
        help="number of ids: bytes, merges and special tokens",
    )
    train.add_argument(
        "--special-tokens",
        nargs="*",
        type=new_special_token,
        default=["<|endoftext|>"],
        metavar="TOKEN",
        help="special tokens (default: <|endoftext|>)",
    )
    train.add_argument("--text-field", default="text", metavar="NAME", help=TEXT_FIELD)
    train.add_argument(
        "--pattern",
        default="gpt2",
        metavar="NAME",
        help="split pattern: gpt2, cl100k, o200k, or a regular expression (default: gpt2)",
    )
    train.add_argument(
        "--max-memory",
        type=parse_size,
        metavar="SIZE",
        help="memory for counting, such as 2GB; the rest goes to disk",
    )
    add_workers(train)
    add_engine(train)


def _encode_options(command: AddCommand) -> None:
    encode = command("encode", "encode a text file to a token file")
    encode.add_argument("--input", required=True, metavar="TEXT", help="text file, or - for standard input")
    encode.add_argument(
        "--output", required=True, metavar="IDS", help=".npy file, or - to print the ids on standard output"
    )
    add_tokenizer(encode)
    add_workers(encode)
    add_engine(encode)


def _decode_options(command: AddCommand) -> None:
    decode = command("decode", "decode a token file to text")
    decode.add_argument(
        "--input",
        required=True,
        metavar="IDS",
        help=".npy, .bin or text file of ids, or - for standard input",
    )
    decode.add_argument("--output", default="-", metavar="TEXT", help="text file (default: standard output)")
    add_tokenizer(decode)


def _inspect_options(command: AddCommand) -> None:
    inspect = command("inspect", "show the tokens of a text, or the contents of a vocabulary")
    inspect.add_argument(
        "--input",
        metavar="FILE",
        help="text, JSON lines, Parquet, token file, SFT or DPO data, or -; shows the vocabulary if omitted",
    )
    add_tokenizer(inspect)
    inspect.add_argument(
        "--document", type=int, default=0, metavar="N", help="first document to show (default: 0)"
    )
    inspect.add_argument(
        "--documents",
        type=positive_int,
        metavar="K",
        help="number of documents to show (default: 1, or 20 with --html)",
    )
    inspect.add_argument(
        "--limit",
        type=positive_int,
        default=2000,
        metavar="N",
        help="maximum number of tokens per document (default: 2000)",
    )
    inspect.add_argument("--html", metavar="PAGE", help="write an HTML page")
    inspect.add_argument(
        "--verify", action="store_true", help="only check that decoding restores the whole file"
    )
    inspect.add_argument("--source", metavar="TEXT", help="source text of a token file, to compare with")
    inspect.add_argument("--text-field", default="text", metavar="NAME", help=TEXT_FIELD)
    inspect.add_argument("--skip-bad", action="store_true", help="skip bad records of SFT and DPO data")
    inspect.add_argument(
        "--longest",
        type=positive_int,
        default=20,
        metavar="N",
        help="number of longest tokens to list of a vocabulary (default: 20)",
    )
    inspect.add_argument(
        "--color",
        choices=["auto", "always", "never"],
        default="auto",
        help="colour the output (default: auto)",
    )


def _count_options(command: AddCommand) -> None:
    count = command("count", "count the tokens of token files")
    count.add_argument(
        "--input", nargs="+", required=True, metavar="IDS", help="token files, or folders of them"
    )


def _compression_options(command: AddCommand) -> None:
    compression = command("compression", "compare bytes per token and encoding speed of tokenizers")
    compression.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="TEXT",
        help="text, JSON lines or Parquet; .gz and .zst too",
    )
    add_tokenizer(compression, many=True)
    compression.add_argument(
        "--n",
        type=positive_int,
        default=10,
        metavar="N",
        help="documents to sample from each text (default: 10)",
    )
    compression.add_argument("--seed", type=int, default=42, help="seed of the sample (default: 42)")
    compression.add_argument("--text-field", default="text", metavar="NAME", help=TEXT_FIELD)


def main(words: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if words is None else words)
        set_log_level()
        home = {"inspect": "inspecting", "count": "measuring", "compression": "measuring"}
        module = importlib.import_module(f"lmfast.cli.tokenizer.{home.get(arguments.command, 'commands')}")
        getattr(module, arguments.command)(arguments)


if __name__ == "__main__":
    main()
