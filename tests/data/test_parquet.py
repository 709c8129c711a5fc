"""parquet.py: columns with one text per row, and nothing else; damage is one line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmfast.data.parquet import check_text_column, open_parquet, read_batches
from lmfast.errors import UserError


def check(path, column="text"):
    with open_parquet(path) as file:
        check_text_column(path, file, column)


def test_bad_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1], "tags": [["a"]]}), path)
    with pytest.raises(UserError, match=r"a.parquet: has no column 'text' \(it has id, tags\)"):
        check(path)
    with pytest.raises(UserError, match=r"a.parquet: column 'id' is int64, not one string per row"):
        check(path, "id")


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.string()),
        pa.list_(pa.string(), 2),
        pa.struct({"text": pa.string()}),
        pa.map_(pa.string(), pa.string()),
    ],
    ids=str,
)
def test_columns_with_several_texts_are_rejected(tmp_path, kind):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.nulls(2, kind)}), path)
    with pytest.raises(
        UserError, match=r"a.parquet: column 'text' is .*, not one string per row; choose another"
    ) as caught:
        check(path)
    assert "\n" not in str(caught.value)


def test_duplicate_column_names_are_rejected(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "text", "other"]), path)
    with pytest.raises(UserError, match=r"a.parquet: has 2 columns 'text'; rename all but one"):
        check(path)
    check(path, "other")


def test_damage_in_the_middle_is_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["some text"] * 1000}), path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[20:60] = bytes(40)
    path.write_bytes(data)
    with (
        open_parquet(path) as file,
        pytest.raises(UserError, match=r"a.parquet: not a complete Parquet file") as caught,
    ):
        list(read_batches(path, file, ["text"]))
    assert "\n" not in str(caught.value)
