"""Seconds end with the command or with its first bytes; a failure ends the benchmark; the table has issue 14's rows."""

import sys

import pytest

from bench import first_seconds
from bench.first_seconds import Place, Seconds, main
from lmfast.tokenizer.__main__ import build_parser


@pytest.fixture
def place(tmp_path, monkeypatch):
    sources = tmp_path / "checkout"
    for name in ("lmfast/__pycache__", "kernels", "configs"):
        (sources / name).mkdir(parents=True)
    (sources / "lmfast" / "__init__.py").write_text("where = __file__")
    (sources / "lmfast" / "__pycache__" / "old.pyc").touch()
    monkeypatch.setattr(first_seconds, "ROOT", sources)
    return Place(tmp_path / "place")


def test_a_place_is_a_copy_without_caches(place):
    assert not (place.folder / "src/lmfast/__pycache__").exists()
    place.seconds(["-c", f"import lmfast; assert lmfast.where.startswith({str(place.folder)!r})"])


def test_seconds_end_with_the_first_bytes_of_output(place, monkeypatch):
    clock = []

    def now() -> float:
        clock.append(len(clock))
        if len(clock) == 2:
            (place.folder / "read").touch()
        return clock[-1]

    monkeypatch.setattr(first_seconds.time, "perf_counter", now)
    code = (
        "import os, time; print('Once', flush=True); end = time.monotonic() + 20\n"
        "while not os.path.exists('read'): time.sleep(0.01); assert time.monotonic() < end\n"
        "print('upon a time')"
    )
    assert place.seconds(["-c", code], until=3).wall == 1


def test_a_failed_command_ends_the_benchmark(place):
    with pytest.raises(SystemExit, match=r"exit code 3"):
        place.seconds(["-c", "exit(3)"])


def test_the_table(monkeypatch, capsys):
    commands = []

    def seconds(place, words, until=None):
        commands.append(words)
        return Seconds(len(commands), 0.5)

    monkeypatch.setattr(Place, "seconds", seconds)
    monkeypatch.setattr(
        first_seconds, "write_stories", lambda path, size, seed: path.write_bytes(bytes(size))
    )
    monkeypatch.setattr(sys, "argv", ["first_seconds", "--runs", "2"])
    main()
    table = capsys.readouterr().out.splitlines()
    assert "| load a tokenizer, encode 'hello' | 6.00 (0.50) | 0.3 | 0.15 |" in table and len(table) == 9
    for words in commands:
        if words[:3] == ["-m", "lmfast", "tokenizer"]:
            build_parser().parse_args(words[3:])
