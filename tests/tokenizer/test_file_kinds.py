"""file_kinds.py: kinds by name, in any case and with any number of dots."""

import pytest

from lmfast.errors import UserError
from lmfast.tokenizer.file_kinds import HEAD, Kind, check_is_text, file_kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a", Kind("text")),
        ("a.py", Kind("text")),
        ("wiki.2024.gz", Kind("text", ".gz")),
        ("a.TXT.ZST", Kind("text", ".zst")),
        ("c4-train.00000-of-01024.json.gz", Kind("records", ".gz")),
        ("a.Json", Kind("records")),
        ("a.jl.zst", Kind("records", ".zst")),
        ("a.PARQUET", Kind("parquet")),
    ],
)
def test_kinds(name, kind):
    assert file_kind(f"some.npy/{name}") == kind


@pytest.mark.parametrize(
    "head", [b"PAR1 is a road", b"BZh is a name", b"%PDF", b"ustar", "żółw".encode(), b"\xff", b""]
)
def test_text_that_resembles_another_format_is_text(head):
    check_is_text("a.txt", head)


def test_formats_are_recognised_by_their_first_bytes():
    tar = bytes(257) + b"ustar" + bytes(HEAD)
    for head, format in ((b"PAR1\x15\x04", "Parquet"), (b"PK\x03\x04", "zip"), (tar[:HEAD], "tar")):
        with pytest.raises(UserError, match=f"a.txt: is {format}, not UTF-8 text"):
            check_is_text("a.txt", head)
