"""The content of a text file according to its name, checked against its first bytes.

In: a path. Out: its `Kind`. The last suffix names the compression, if any, and the one before it the content; case is
ignored. Names without a suffix listed here are text.

Rejects: archives, arrays and models; text compressed twice; Parquet in .gz or .zst; content that starts with the
signature of another format, whatever its name.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from lmfast.errors import UserError

TEXT_SUFFIXES = (".txt", ".text", ".md")
RECORD_SUFFIXES = (".jsonl", ".ndjson", ".jl", ".json")
PACKED_SUFFIXES = (".gz", ".zst")
NON_TEXT_SUFFIXES = (
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
HEAD = 512  # bytes that contain every signature


class Kind(NamedTuple):
    """form: "text", "records" (JSON lines) or "parquet". packing: ".gz", ".zst" or ""."""

    form: Literal["text", "records", "parquet"]
    packing: str = ""


PLAIN_TEXT = Kind("text")


def file_kind(path: str | Path) -> Kind:
    """The kind of a file, by its name. Raises UserError for suffixes of files that are not text."""
    inner, packing = _suffixes(Path(path))
    if inner in NON_TEXT_SUFFIXES:
        raise UserError(
            f"{path}: {inner} files are not text; decompress or convert it to text, .jsonl or .parquet, or leave it out"
        )
    if inner in PACKED_SUFFIXES:
        raise UserError(f"{path}: is compressed twice; decompress it once")
    if inner == ".parquet" and packing:
        raise UserError(f"{path}: Parquet inside {packing} is not supported; decompress the file first")
    return Kind(
        "records" if inner in RECORD_SUFFIXES else "parquet" if inner == ".parquet" else "text", packing
    )


def is_plain_text(path: str | Path) -> bool:
    """Whether a file is uncompressed text, by its name: not records, not Parquet."""
    return file_kind(path) == PLAIN_TEXT


def has_source_suffix(path: Path) -> bool:
    """Whether a file in a folder is read as text, records or Parquet. A file with another suffix is read only if it is
    named itself; uncompressed .json is skipped, because folders contain .json files that describe data."""
    inner, packing = _suffixes(path)
    return inner in (*TEXT_SUFFIXES, *RECORD_SUFFIXES, ".parquet") and (inner != ".json" or bool(packing))


def _suffixes(path: Path) -> tuple[str, str]:
    """ "c4.00001.JSON.gz" → (".json", ".gz"); "a.txt" → (".txt", "")."""
    packing = path.suffix.lower() if path.suffix.lower() in PACKED_SUFFIXES else ""
    return (path.with_suffix("") if packing else path).suffix.lower(), packing


def text_remarks(path: Path, head: bytes) -> list[str]:
    """Warnings about a plain text's name or first bytes that suggest it is not UTF-8; the bytes are kept as they are."""
    remarks = []
    if path.suffix.lower() in (".csv", ".tsv"):
        remarks.append(
            f"{path}: is read as text, headers and separators included; for one column, convert it to .jsonl"
        )
    if head.startswith(b"\xef\xbb\xbf"):
        remarks.append(
            f"{path}: starts with a byte order mark, which is kept as text; remove its three bytes"
        )
    if b"\0" in head:
        remarks.append(f"{path}: contains zero bytes, which are kept as text; is it UTF-16, or not text?")
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not a character cut by the end of `head`
            remarks.append(
                f"{path}: is not valid UTF-8 at byte {error.start}, and its bytes are kept; is it Latin-1?"
            )
    return remarks


def check_is_text(path: str | Path, head: bytes) -> None:
    """Raises UserError if `head`, the first `HEAD` bytes of a decompressed text, has the signature of another format."""
    for signature, format in _SIGNATURES.items():
        if re.match(signature, head):
            raise UserError(
                f"{path}: is {format}, not UTF-8 text, by its first bytes; convert it, or correct its name"
            )
