"""Standard input and output that are closed, unreadable or not text."""

import io
import os
import sys

import pytest

from lmfast import streams
from lmfast.errors import UserError


def refusal(monkeypatch, stdin) -> str:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UserError) as error, streams.standard_input() as source:
        source.read()
    return str(error.value)


def test_input_that_cannot_be_read_is_one_line(monkeypatch, tmp_path):
    assert "standard input is closed; pipe text into it" in refusal(monkeypatch, None)
    with open(tmp_path / "out", "w") as restrict_to:
        assert "standard input: cannot be read (not readable)" in refusal(monkeypatch, restrict_to)
    folder = os.open(tmp_path, os.O_RDONLY)
    raw = io.FileIO(os.dup(1), "r")
    os.dup2(folder, raw.fileno())
    with io.TextIOWrapper(io.BufferedReader(raw)) as stream:
        assert "standard input: cannot be read (Is a directory)" in refusal(monkeypatch, stream)
    os.close(folder)
    latin = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8")
    assert "standard input: not UTF-8 text" in refusal(monkeypatch, latin)


def test_a_pipe_or_file_is_piped_and_nothing_else(monkeypatch, tmp_path):
    def piped(stdin) -> bool:
        monkeypatch.setattr(sys, "stdin", stdin)
        return streams.input_is_piped()

    (tmp_path / "in").write_text("x")
    reader, writer = os.pipe()
    os.close(writer)
    with open(reader) as pipe, open(tmp_path / "in") as file, open(os.devnull) as nothing:
        assert piped(pipe) and piped(file)
        assert not piped(nothing) and not piped(io.StringIO("x")) and not piped(None)


def test_closed_output_is_one_line_if_the_result_goes_there(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    print("others print into nothing")
    with pytest.raises(UserError, match="standard output is closed"):
        streams.standard_output()


def test_closed_descriptors_are_reserved_so_that_no_file_gets_them(monkeypatch):
    opened = iter([1, 2, 3])
    closed = []
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(os, "open", lambda *_: next(opened))
    monkeypatch.setattr(os, "close", closed.append)
    streams.prepare()
    assert closed == [3]
