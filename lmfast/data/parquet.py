"""Opens Parquet files, checks their columns and reads them in batches, with pyarrow.

Rejects: a missing pyarrow, damaged or truncated files (also if that shows only while reading), missing and duplicate
columns, and text columns of another type, such as lists of strings.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmfast.errors import UserError

TEXT_TYPES = ("string", "large_string", "string_view", "null")
ROWS = 1024  # read together


def open_parquet(path: Path):
    """A pyarrow.parquet.ParquetFile. Not memory-mapped: truncating the file while reading would kill the process."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow, which is not installed; run `pip install pyarrow` (the extra `data`)"
        ) from None
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def check_columns(path: Path, file, columns: Sequence[str], remedy: str) -> None:
    """Raises UserError if a column is missing or its name is not unique."""
    names = file.schema_arrow.names
    for column in columns:
        if column not in names:
            raise UserError(f"{path}: has no column {column!r} (it has {', '.join(names)}); {remedy}")
        if names.count(column) > 1:
            raise UserError(f"{path}: has {names.count(column)} columns {column!r}; rename all but one")


def check_text_column(path: Path, file, column: str) -> None:
    """Raises UserError if the column does not contain one string per row."""
    from pyarrow import types

    check_columns(path, file, [column], "set --text-field")
    kind = file.schema_arrow.field(column).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if str(value) not in TEXT_TYPES:
        raise UserError(
            f"{path}: column {column!r} is {kind}, not one string per row; choose another --text-field"
        )


def read_batches(path: Path, file, columns: Sequence[str], groups: Sequence[int] | None = None) -> Iterator:
    """Yields pyarrow.RecordBatch objects of some row groups, or of all."""
    from pyarrow import ArrowException

    try:
        yield from file.iter_batches(ROWS, row_groups=groups, columns=list(columns))
    except (ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def row_group_spans(path: Path, shard_bytes: int) -> list[tuple[int, int]]:
    """Ranges of row groups of about `shard_bytes` each."""
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
    return UserError(f"{path}: not a complete Parquet file ({str(error).splitlines()[0]}); download it again")
