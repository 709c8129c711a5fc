"""python -m lmfast.tokenizer train|encode|decode|inspect|count|compression: the command line, and nothing else.

The command line is parsed here (`--help` answers at once: no numpy, no numba); the work is done in cli/tokenizer.
Bad input is one line on stderr and exit code 2. LOG_LEVEL=DEBUG shows the most frequent
pretokens and every pair as it is chosen. `--vocab-size` may be spelt `--vocab_size`, and so on.
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


def build_parser() -> Parser:
    parser, command = parser_of(
        "lmfast.tokenizer",
        "Byte-level BPE: train a vocabulary, turn text into token files, and look inside.",
    )
    train = command("train", "learn a vocabulary from text, JSON lines or Parquet")
    train.add_argument(
        "--input", nargs="+", required=True, metavar="TEXT", help="files, folders or globs; also .gz and .zst"
    )
    train.add_argument("--output", required=True, metavar="FOLDER", help="folder for the tokenizer")
    train.add_argument("--vocab-size", type=positive, required=True, help="bytes, merges and special tokens")
    train.add_argument(
        "--special-tokens",
        nargs="*",
        type=new_special_token,
        default=["<|endoftext|>"],
        metavar="TOKEN",
        help="default: <|endoftext|>",
    )
    train.add_argument("--text-field", default="text", metavar="NAME", help="of records and Parquet (text)")
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


def main(words: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if words is None else words)
        set_log_level()
        home = {"inspect": "inspecting", "count": "measuring", "compression": "measuring"}
        module = importlib.import_module(f"lmfast.cli.tokenizer.{home.get(arguments.command, 'commands')}")
        getattr(module, arguments.command)(arguments)


if __name__ == "__main__":
    main()
