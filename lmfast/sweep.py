"""python -m lmfast.sweep SWEEP.yaml: trains with many combinations of settings and compares the runs on one page.

The file lists the settings to search, how (grid, random, or one of Optuna's samplers), and a budget (docs/guides/sweep.md).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lmfast.cli.arguments import Parser, positive_int
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.model.torch_environment import set_environment
from lmfast.streams import standard_output


def build_parser() -> Parser:
    parser = Parser(
        prog="lmfast sweep",
        description="Train with many combinations of settings and compare the runs on one page. If interrupted, rerun the "
        "same command to resume.",
    )
    parser.add_argument(
        "sweep", metavar="SWEEP", help="YAML file, or the name of a built-in one, such as learning_rate"
    )
    parser.add_argument(
        "--out-dir", type=Path, metavar="FOLDER", help="folder of the sweep (default: sweeps/NAME)"
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="number of runs at a time (default: number of GPUs, or 1)",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="Optuna storage, for several machines (default: study.db in the sweep's folder)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the sweep and list its trials")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        standard_output()
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        set_environment()
        from lmfast.cli.sweeping import sweep

        code = sweep(
            arguments.sweep, arguments.out_dir, arguments.workers, arguments.storage, arguments.dry_run
        )
    sys.exit(code)


if __name__ == "__main__":
    main()
