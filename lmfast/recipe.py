"""python -m lmfast.recipe RECIPE.yaml: runs a whole job, from text to an evaluated and exported model.

A recipe lists stages, which are commands with their options (lmfast/cli/recipes). Stages whose inputs and settings are
unchanged are skipped; an interrupted stage resumes. FOLDER/recipe.html shows the results.
"""

import sys
from collections.abc import Sequence

from lmfast.cli.arguments import Parser
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.cli.recipes.running import Options, run_recipe


def build_parser() -> Parser:
    parser = Parser(
        prog="lmfast recipe",
        description="Run the stages of a job: text, tokenizer, token files, training, fine-tuning, evaluation, export. "
        "Skips what is done. If interrupted, rerun the same command to resume.",
    )
    parser.add_argument(
        "recipe", metavar="RECIPE", help="YAML file, or the name of a built-in recipe, such as tinystories"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="STAGE.OPTION=VALUE",
        help="change an option of a stage, or folder=FOLDER; may be repeated",
    )
    parser.add_argument("--stop-after", metavar="STAGE", help="run only this stage and those it needs")
    parser.add_argument(
        "--dry-run", action="store_true", help="only check the recipe, and print what would run and how long"
    )
    parser.add_argument("--fresh", action="store_true", help="start over instead of reusing finished stages")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        code = run_recipe(
            Options(
                arguments.recipe,
                arguments.changes,
                arguments.stop_after,
                arguments.dry_run,
                arguments.fresh,
            )
        )
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
