"""python -m lmfast.report RUN…: compare runs on one HTML page that opens offline.

python -m lmfast.report --tokens RUN FILE: a text whose tokens are coloured by their loss.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lmfast.cli.arguments import Parser
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.model.torch_environment import set_environment
from lmfast.training.report import write_report


def build_parser() -> Parser:
    parser = Parser(prog="lmfast report", description="Compare runs on one HTML page.")
    parser.add_argument(
        "--tokens",
        action="store_true",
        help="show the loss of every token of a text instead; give a run and a text file",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders to compare")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PAGE",
        help="page to write (default: report.html, or tokens.html with --tokens)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        if arguments.tokens:
            _report_tokens(arguments.runs, arguments.output or Path("tokens.html"))
            return
        output = arguments.output or Path("report.html")
        for run in arguments.runs:
            if not (run / "metrics.jsonl").is_file():
                raise UserError(
                    f"{run}: not a run folder (no metrics.jsonl); give one such as runs/quickstart"
                )
        write_report(arguments.runs, output)
        print(output)


def _report_tokens(paths: Sequence[Path], output: Path) -> None:
    if len(paths) != 2:
        raise UserError(f"--tokens takes a run and a text file, not {counted(len(paths), 'path')}")
    set_environment()
    from lmfast.cli.reporting_tokens import report_tokens

    run, file = paths
    print(report_tokens(run, file, output))
    print(output)


if __name__ == "__main__":
    main()
