"""`EncodeSummary`: what encoding a file did."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodeSummary:
    """The result of `encode_file`: ids written, bytes read, special tokens among them (and their bytes), seconds."""

    tokens: int
    bytes: int
    specials: int
    special_bytes: int
    seconds: float
