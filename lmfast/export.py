"""python -m lmfast.export RUN: write a trained model as files that other programs load."""

import sys
from collections.abc import Sequence

from lmfast.cli.arguments import Parser, parse_size
from lmfast.cli.exit_codes import exit_on_user_error


def build_parser() -> Parser:
    parser = Parser(
        prog="lmfast export", description="Write a trained model as files that other programs load."
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument(
        "--format",
        choices=["hf", "gguf"],
        required=True,
        help="hf: a folder for Hugging Face's transformers; gguf: a file for llama.cpp",
    )
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="folder or file to write; must not exist"
    )
    parser.add_argument(
        "--dtype", choices=["fp32", "bf16", "fp16"], help="hf: dtype of the weights (default: fp32)"
    )
    parser.add_argument(
        "--max-shard-size",
        type=parse_size,
        metavar="SIZE",
        help="hf: split larger weights into files of at most this size (default: 5GB)",
    )
    parser.add_argument(
        "--quantize",
        choices=["f32", "f16", "bf16", "q8_0"],
        help="gguf: type of the matrices; q8_0 is 8-bit, with a scale per 32 weights (default: f32)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        from lmfast.interop.exporting import export_run

        output = export_run(
            arguments.run,
            arguments.format,
            output=arguments.output,
            dtype=arguments.dtype,
            max_shard_size=arguments.max_shard_size,
            quantize=arguments.quantize,
        )
        print(output)


if __name__ == "__main__":
    main()
