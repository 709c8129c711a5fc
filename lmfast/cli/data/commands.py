"""The subcommands of `lmfast data`: download, stories, prepare, stats. lmfast/data/__main__.py parses the line."""

import argparse
from functools import partial
from pathlib import Path

from lmfast.cli.progress import progress
from lmfast.cli.tokenizer.commands import check_scheduler, execution_options, load_tokenizer
from lmfast.cli.tokenizer.measuring import token_files
from lmfast.cli.tokenizer.verifying import open_matching_tokens
from lmfast.counted import counted
from lmfast.data import corpora
from lmfast.data.prepare import COUNTS, PrepareOptions, prepare_files
from lmfast.data.stats import Stats, stats_text, token_stats, write_stats
from lmfast.data.stories import builtin
from lmfast.data.token_file import open_tokens
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.units import data_size


def download(arguments: argparse.Namespace) -> None:
    if arguments.repo is not None:
        if arguments.name is not None or arguments.source is not None:
            raise UserError("--repo cannot be combined with NAME or --from; remove them")
        folder = Path(arguments.output or Path("data") / arguments.repo.split("/")[-1])
        for path in corpora.download_repo(
            arguments.repo,
            arguments.files or ["*"],
            folder,
            arguments.revision or "main",
            arguments.limit_files,
        ):
            print(f"{path}: {data_size(path.stat().st_size)}")
        return
    if arguments.files is not None:
        raise UserError("--files requires --repo; remove it, or give --repo instead of NAME")
    if arguments.name is None:
        if arguments.limit_files is not None:
            raise UserError("--limit-files requires NAME or --repo; add one")
        print("\n".join(f"{name:<25}{corpus.about}" for name, corpus in corpora.CORPORA.items()))
        return
    folder = Path(arguments.output or Path("data") / arguments.name)
    source = None if arguments.source is None else Path(arguments.source)
    for part in corpora.download(
        arguments.name, folder, arguments.revision or "main", source, arguments.limit_files
    ):
        print(f"{part.path}: {part.records:,} {part.unit}, {data_size(part.path.stat().st_size)}")


def stories(arguments: argparse.Namespace) -> None:
    builtin.prepare(
        Path(arguments.output), arguments.train_bytes, arguments.valid_bytes, arguments.vocab_size
    )


def prepare(arguments: argparse.Namespace) -> None:
    if arguments.val_input is not None and arguments.val_fraction is not None:
        raise UserError("--val-fraction and --val-input exclude each other; remove one of them")
    check_scheduler(arguments)
    if arguments.val_tokens is not None:
        for flag, value in (("--val-fraction", arguments.val_fraction), ("--val-input", arguments.val_input)):
            if value is not None:
                raise UserError(f"{flag} and --val-tokens exclude each other; remove one of them")
    given = {
        "val_fraction": arguments.val_fraction,
        "val_tokens": arguments.val_tokens,
        "seed": arguments.seed,
    }
    settings = PrepareOptions(
        field=arguments.text_field,
        separator=arguments.separator,
        **{name: value for name, value in given.items() if value is not None},
    )
    tokenizer = load_tokenizer(arguments)
    output = Path(arguments.output)
    with progress(encoding="bytes") as update:
        counts = prepare_files(
            arguments.input,
            tokenizer,
            output,
            settings,
            arguments.val_input or (),
            execution_options(arguments),
            partial(update, "encoding"),
        )
    for part, found in counts["parts"].items():
        if found["documents"]:
            print(
                f"{output / part}.npy: {found['tokens']:,} tokens ({tokenizer.dtype}), "
                f"{counted(found['documents'], 'document')}, {found['bytes'] / found['tokens']:.3f} bytes/token"
            )
    if counts["blank_documents"]:
        print(f"skipped {counted(counts['blank_documents'], 'blank document')}")
    print(f"{output / COUNTS}: documents, tokens and bytes by part and source")
    if arguments.create_stats:
        parts = [output / f"{part}.npy" for part, found in counts["parts"].items() if found["documents"]]
        _print_stats([_stats(path, tokenizer) for path in parts], output)


def stats(arguments: argparse.Namespace) -> None:
    own = None
    if arguments.tokenizer or arguments.vocab or arguments.merges:
        own = load_tokenizer(arguments)
    if arguments.output is not None and not Path(arguments.output).is_dir():
        raise UserError(f"{arguments.output}: is not a directory; create it, or choose another --output")
    figures = []
    for path in token_files(arguments.input):
        figures.append(_stats(path, own or _recorded_tokenizer(path)))
    _print_stats(figures, None if arguments.output is None else Path(arguments.output))


def _recorded_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer recorded in the summary of a token file."""
    home = open_tokens(path).tokenizer_path
    if home is None:
        raise UserError(
            f"{path}: its tokenizer is unknown, because there is no {path.name}.json; give --tokenizer"
        )
    if not Path(home).exists():
        raise UserError(f"{path}: its tokenizer {home} no longer exists; give --tokenizer")
    return Tokenizer.load(home)


def _stats(path: Path, tokenizer: Tokenizer) -> Stats:
    return token_stats(str(path), open_matching_tokens(path, tokenizer).tokens, tokenizer)


def _print_stats(figures: list[Stats], folder: Path | None) -> None:
    written = [] if folder is None else write_stats(folder, figures)
    print(f"\n{stats_text(figures)}")
    if written:
        print("\n" + ", ".join(map(str, written)))
