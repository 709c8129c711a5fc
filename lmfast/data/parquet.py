"""Parquet files: opened, their columns checked, read in batches (pyarrow, imported where it is used).

Rejects, in one line: a missing package, files that are damaged or cut short, also where that shows only in the middle,
columns that are missing or named twice, and a column of texts that is none (lists of texts are none).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmfast.errors import UserError

TEXT_TYPES = ("string", "large_string", "string_view", "null")
ROWS = 1024  # read together


def open_parquet(path: Path):
    """A pyarrow.parquet.ParquetFile. Not mapped: a file that is cut short while it is read would end the process."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow, which is not installed; `pip install pyarrow` (the extra `data`)"
        ) from None
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def check_columns(path: Path, file, columns: Sequence[str], remedy: str) -> None:
    """Raises UserError where one of the columns is missing, or its name is not the only one of its kind."""
    names = file.schema_arrow.names
    for column in columns:
        if column not in names:
            raise UserError(f"{path}: has no column {column!r} (it has {', '.join(names)}); {remedy}")
        if names.count(column) > 1:
            raise UserError(f"{path}: has {names.count(column)} columns {column!r}; rename all but one")


def check_text_column(path: Path, file, column: str) -> None:
    """Raises UserError where the column does not hold one text per row."""
    from pyarrow import types

    check_columns(path, file, [column], "name it with --text-field")
    kind = file.schema_arrow.field(column).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if str(value) not in TEXT_TYPES:
        raise UserError(
            f"{path}: column {column!r} is {kind}, not one text per row; name another --text-field"
        )


def read_batches(path: Path, file, columns: Sequence[str], groups: Sequence[int] | None = None) -> Iterator:
    """pyarrow.RecordBatch after RecordBatch, of some row groups or of all."""
    from pyarrow import ArrowException

    try:
        yield from file.iter_batches(ROWS, row_groups=groups, columns=list(columns))
    except (ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def row_group_spans(path: Path, shard_bytes: int) -> list[tuple[int, int]]:
    """Spans of row groups of about `shard_bytes` each."""
    with open_parquet(path) as file:
        facts = file.metadata
    spans, begin, gathered = [], 0, 0
    for group in range(facts.num_row_groups):
        gathered += facts.row_group(group).total_byte_size
        if gathered >= shard_bytes or group == facts.num_row_groups - 1:
            spans.append((begin, group + 1))
            begin, gathered = group + 1, 0
    return spans


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: no whole Parquet file ({str(error).splitlines()[0]}); fetch it again")
