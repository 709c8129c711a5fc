"""python -m lmfast.report RUN…: compare runs on one HTML page that opens offline."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lmfast.cli.arguments import Parser
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.errors import UserError
from lmfast.training.report import write_report


def build_parser() -> Parser:
    parser = Parser(prog="lmfast report", description="Compare runs on one HTML page.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders to compare")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="PAGE",
        help="page to write (default: report.html)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        for run in arguments.runs:
            if not (run / "metrics.jsonl").is_file():
                raise UserError(
                    f"{run}: not a run folder (no metrics.jsonl); give one such as runs/quickstart"
                )
        write_report(arguments.runs, arguments.output)
        print(arguments.output)


if __name__ == "__main__":
    main()
