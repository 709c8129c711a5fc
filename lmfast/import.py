"""python -m lmfast.import FOLDER: turn a model in Hugging Face's format into a run.

`import` is a keyword, so other modules load this one by name.
"""

import sys
from collections.abc import Sequence

from lmfast.cli.arguments import Parser, positive_int
from lmfast.cli.exit_codes import exit_on_user_error


def build_parser() -> Parser:
    parser = Parser(
        prog="lmfast import",
        description="Turn a Llama, Mistral, Qwen2, Qwen3 or SmolLM model in Hugging Face's format into a run.",
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder with config.json, safetensors files and a tokenizer"
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="run folder to write; must not exist")
    parser.add_argument(
        "--context-length",
        type=positive_int,
        metavar="N",
        help="maximum sequence length in tokens (default: the model's); caches are allocated for it",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer to use instead of the folder's; 'none' imports the model without one",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        from lmfast.interop.importing import import_model

        output = import_model(
            arguments.folder,
            output=arguments.output,
            context_length=arguments.context_length,
            tokenizer=arguments.tokenizer,
        )
        print(output)


if __name__ == "__main__":
    main()
