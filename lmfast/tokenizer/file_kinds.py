"""What a file of text holds, by its name, and what it cannot be, by its first bytes.

In: a path. Out: its `Kind`. The last suffix says whether the file is packed, the one before it what is packed in it; upper
and lower case are the same. Names without a suffix listed here are text.

Rejects, in one line: archives, arrays and models; text packed twice; Parquet in .gz or .zst; text that begins as a file of
another format does, whatever its name.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from lmfast.errors import UserError

TEXT_SUFFIXES = (".txt", ".text", ".md")
RECORD_SUFFIXES = (".jsonl", ".ndjson", ".jl", ".json")
PACKED_SUFFIXES = (".gz", ".zst")
NO_TEXT = (
    *(".bz2", ".xz", ".lzma", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".rar"),
    *(
        ".npy",
        ".npz",
        ".bin",
        ".pt",
        ".pth",
        ".pkl",
        ".safetensors",
        ".gguf",
        ".arrow",
        ".feather",
        ".h5",
        ".pdf",
    ),
)

_SIGNATURES = {
    rb"\x1f\x8b": "gzip",
    rb"\x28\xb5\x2f\xfd": "zstd",
    rb"\xfd7zXZ\x00": "xz",
    rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)": "bzip2",
    rb"7z\xbc\xaf\x27\x1c": "7-Zip",
    rb"PK(\x03\x04|\x05\x06)": "zip",
    rb"\x93NUMPY": "NumPy's .npy",
    rb"PAR1[\x00-\x08\x0e-\x1f]": "Parquet",
    rb"ARROW1\x00\x00": "Arrow",
    rb"%PDF-": "PDF",
    rb"\xff\xfe|\xfe\xff": "UTF-16 or UTF-32",
    rb"(?s:.{257})ustar": "tar",
}
HEAD = 512  # bytes that show a signature


class Kind(NamedTuple):
    """form: "text", "records" (JSON lines) or "parquet". packing: ".gz", ".zst" or ""."""

    form: Literal["text", "records", "parquet"]
    packing: str = ""


PLAIN_TEXT = Kind("text")


def kind_of(path: str | Path) -> Kind:
    """The kind that a file's name says. Raises UserError for names of files that hold no text."""
    inner, packing = _suffixes(Path(path))
    if inner in NO_TEXT:
        raise UserError(
            f"{path}: {inner} files hold no text; unpack or convert it to text, .jsonl or .parquet, or leave it out"
        )
    if inner in PACKED_SUFFIXES:
        raise UserError(f"{path}: is packed twice; unpack it once")
    if inner == ".parquet" and packing:
        raise UserError(f"{path}: Parquet is compressed already; unpack the file first")
    return Kind(
        "records" if inner in RECORD_SUFFIXES else "parquet" if inner == ".parquet" else "text", packing
    )


def is_plain_text(path: str | Path) -> bool:
    """Whether a file is text as it stands, by its name: not records, not Parquet, not packed."""
    return kind_of(path) == PLAIN_TEXT


def is_named_as_source(path: Path) -> bool:
    """Whether a folder's file is read as text, records or Parquet. Other names count as text only where the file itself is
    named; .json without packing is left out, because folders hold .json files that describe data."""
    inner, packing = _suffixes(path)
    return inner in (*TEXT_SUFFIXES, *RECORD_SUFFIXES, ".parquet") and (inner != ".json" or bool(packing))


def _suffixes(path: Path) -> tuple[str, str]:
    """ "c4.00001.JSON.gz" → (".json", ".gz"); "a.txt" → (".txt", "")."""
    packing = path.suffix.lower() if path.suffix.lower() in PACKED_SUFFIXES else ""
    return (path.with_suffix("") if packing else path).suffix.lower(), packing


def text_remarks(path: Path, head: bytes) -> list[str]:
    """What in a plain text's first bytes or name suggests that it is not the UTF-8 it is read as; its bytes are kept."""
    remarks = []
    if path.suffix.lower() in (".csv", ".tsv"):
        remarks.append(
            f"{path}: is read as text, headers and separators included; for one column, make .jsonl of it"
        )
    if head.startswith(b"\xef\xbb\xbf"):
        remarks.append(
            f"{path}: begins with a byte order mark, which is kept as text; remove its three bytes"
        )
    if b"\0" in head:
        remarks.append(f"{path}: has zero bytes, which are kept as text; is it UTF-16, or not text?")
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not a character that `head` cuts
            remarks.append(
                f"{path}: is not UTF-8 from byte {error.start} on, and its bytes are kept; is it Latin-1?"
            )
    return remarks


def check_is_text(path: str | Path, head: bytes) -> None:
    """Raises UserError where `head`, the first `HEAD` bytes of a text (unpacked), begins a file of another format."""
    for signature, format in _SIGNATURES.items():
        if re.match(signature, head):
            raise UserError(
                f"{path}: is not UTF-8 text but {format}, by its first bytes; convert it, or correct its name"
            )
