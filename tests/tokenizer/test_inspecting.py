"""inspecting.py: what is shown is the text, tokens are set apart, and a difference would be told."""

import re

import numpy as np
import pytest

from lmfast.tokenizer.__main__ import main
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.inspecting import fact_lines, marked, vocabulary_lines

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
VOCAB = {i: bytes([i]) for i in range(256)} | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}
TEXT = "the the\n<|endoftext|>two é the<|endoftext|>three"


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    tokenizer = Tokenizer(VOCAB, MERGES, ["<|endoftext|>"])
    tokenizer.save(tmp_path / "tok")
    return tokenizer


def test_marked_tokens(tokenizer):
    ids = tokenizer.encode("the the<|endoftext|>é")
    assert marked(tokenizer, ids, colors=False) == "the│ the│⟦<|endoftext|>⟧│\\xc3│\\xa9"
    colored = marked(tokenizer, ids, colors=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == "the the<|endoftext|>\\xc3\\xa9"
    assert "\x1b[1;97;41m<|endoftext|>\x1b[0m" in colored
    assert len(set(re.findall(r"48;5;(\d+)m", colored))) > 1


def test_documents_of_text_and_of_token_files(tokenizer, tmp_path, capsys):
    (tmp_path / "t.txt").write_text(TEXT)
    np.save(tmp_path / "t.npy", np.array(tokenizer.encode(TEXT), np.uint16))
    shown = {}
    for name in ("t.txt", "t.npy"):
        for number in range(3):
            main(f"inspect --input {tmp_path}/{name} --tokenizer {tmp_path}/tok --document {number}".split())
            shown[name, number] = capsys.readouterr().out
    assert shown["t.txt", 1].startswith("t│w│o│ │\\xc3│\\xa9│ the│⟦<|endoftext|>⟧\n")
    assert shown["t.txt", 2].startswith("t│h│r│e│e".replace("t│h│", "th│"))
    for number in range(3):
        first = [shown[name, number].split("\n\n")[0] for name in ("t.txt", "t.npy")]
        assert first[0] == first[1]
        assert "decoding gives back the source: yes" in shown["t.txt", number]
        assert "decoding and encoding again gives back the ids: yes" in shown["t.npy", number]


def test_limit_and_colors(tokenizer, tmp_path, capsys):
    (tmp_path / "t.txt").write_text(TEXT)
    line = f"inspect --input {tmp_path}/t.txt --tokenizer {tmp_path}/tok --limit 2"
    main([*line.split(), "--color", "always"])
    told = capsys.readouterr().out
    assert "\x1b[97;48;5;" in told and "… 2 more tokens (--limit 4 shows all)" in told
    main([*line.split(), "--color", "never"])
    assert "\x1b" not in capsys.readouterr().out


def test_differences_are_told(tokenizer):
    ids = np.array(tokenizer.encode("the two"), np.uint32)
    assert "decoding differs from the source at byte 4" in fact_lines(tokenizer, ids, b"the Two")
    other = np.array([116, 104, 101], np.uint32)  # t h e, which encoding would merge
    assert "encoding the decoded text gives other ids from position 0" in fact_lines(tokenizer, other, None)


def test_vocabulary(tokenizer, tmp_path, capsys):
    lines = vocabulary_lines(tokenizer, 2)
    assert lines[0].startswith("260 ids: 259 ordinary tokens, 3 merges, pattern gpt2, uint16")
    assert lines[1] == "special tokens: '<|endoftext|>' 259"
    assert lines[-2].split() == ["258", "4", "bytes", "'", "the'"] and "'the'" in lines[-1]
    main(f"inspect --tokenizer {tmp_path}/tok --longest 1".split())
    assert capsys.readouterr().out.rstrip().endswith("' the'")
