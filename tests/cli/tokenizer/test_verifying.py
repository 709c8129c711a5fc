"""verifying.py: whether decoding restores the source, and the position where it does not."""

import gzip
import json

import numpy as np
import pytest

from lmfast.cli.tokenizer import verifying
from lmfast.cli.tokenizer.verifying import (
    ROUND_TRIPS,
    compare_reencoded,
    compare_with_source,
    find_source,
    source_offset,
    verify_text,
    verify_tokens,
)
from lmfast.data.token_file import open_tokens
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.documents import open_text

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
VOCAB = {i: bytes([i]) for i in range(256)} | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}
TEXT = "".join(f"the {i} żółw the\n<|endoftext|>" for i in range(50)).encode() + b"\xff the"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCAB, MERGES, ["<|endoftext|>"])


def test_one_document():
    assert compare_with_source(b"abc", b"abc") == ROUND_TRIPS
    assert compare_with_source(b"abc", b"abd", 10) == "decoding differs from the source at byte 12"
    assert (
        compare_with_source(b"ab", b"abd", 10)
        == "decoding agrees with the source up to byte 12, where decoding ends"
    )
    assert (
        compare_with_source(b"abd", b"ab")
        == "decoding agrees with the source up to byte 2, where the source ends"
    )


def test_ids_without_a_source(tokenizer):
    assert compare_reencoded(tokenizer, np.array(tokenizer.encode("the the"))).endswith("yes")
    unmerged = np.array([116, 104, 101], np.uint32)  # t h e, which encoding would merge
    assert (
        compare_reencoded(tokenizer, unmerged, 7)
        == "encoding the decoded text gives other ids from position 7"
    )


@pytest.mark.parametrize("piece", [5, 64, 1 << 20])
def test_whole_files(tokenizer, tmp_path, monkeypatch, piece):
    monkeypatch.setattr(verifying, "PIECE", piece)
    text, packed, ids = tmp_path / "t.txt", tmp_path / "t.txt.gz", tmp_path / "t.npy"
    text.write_bytes(TEXT)
    packed.write_bytes(gzip.compress(TEXT))
    tokenizer.encode_file(text, ids, num_workers=1)
    file = open_tokens(ids)
    assert (
        verify_text(tokenizer, str(text), "text")
        == verify_text(tokenizer, str(packed), "text")
        == ROUND_TRIPS
    )
    source = find_source(file, None)
    assert bytes(source) == TEXT
    assert verify_tokens(tokenizer, file, source) == ROUND_TRIPS
    assert verify_tokens(tokenizer, file, None) == "decoding and encoding again restores the ids: yes"
    position = len(file.tokens) // 2
    assert source_offset(tokenizer, file.tokens, position) == len(
        tokenizer.decode_bytes(file.tokens[:position])
    )

    text.write_bytes(TEXT.replace(b"the 40", b"thy 40"))
    place = TEXT.index(b"the 40") + 2
    assert (
        verify_tokens(tokenizer, file, open_text(text)) == f"decoding differs from the source at byte {place}"
    )
    text.write_bytes(TEXT + b"more")
    assert verify_tokens(tokenizer, file, open_text(text)).endswith(
        f"up to byte {len(TEXT)}, where decoding ends"
    )
    assert find_source(file, None) is None  # its size has changed

    changed = np.array(file.tokens)
    at = int(np.flatnonzero(changed == 257)[30])
    changed = np.concatenate([changed[:at], [116, 104, 101], changed[at + 1 :]]).astype(
        np.uint16
    )  # "the", unmerged
    np.save(tmp_path / "c.npy", changed)
    printed = verify_tokens(tokenizer, open_tokens(tmp_path / "c.npy"), None)
    assert printed == f"encoding the decoded text gives other ids from position {at}"


def test_records(tokenizer, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("the <|endoftext|>", "\ud800 żółw"))
    )
    assert verify_text(tokenizer, str(path), "text") == ROUND_TRIPS
    path.write_text("\n")
    with pytest.raises(UserError, match=r"t.jsonl: contains no documents"):
        verify_text(tokenizer, str(path), "text")


def test_a_wrong_decoder_is_detected(tokenizer, tmp_path, monkeypatch):
    text, records = tmp_path / "t.txt", tmp_path / "t.jsonl"
    text.write_bytes(TEXT)
    records.write_text('{"text": "a"}\n{"text": "the é"}\n')
    decode = tokenizer.decode_bytes
    monkeypatch.setattr(
        tokenizer, "decode_bytes", lambda ids: decode(ids).replace(b"\xc3", b"?").replace(b"\xff", b"?")
    )
    place = min(TEXT.index(b"\xc3"), TEXT.index(b"\xff"))
    assert verify_text(tokenizer, str(text), "text") == f"decoding differs from the source at byte {place}"
    assert (
        verify_text(tokenizer, str(records), "text")
        == "document 1: decoding differs from the source at byte 4"
    )
