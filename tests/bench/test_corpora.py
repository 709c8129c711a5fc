"""The corpora are reproducible, have the requested size, and the properties they claim."""

from itertools import islice

import pytest

from bench import corpora


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LMFAST_BENCH_CORPORA", str(tmp_path / "corpora"))


@pytest.fixture
def small_base(monkeypatch):
    monkeypatch.setattr(corpora.stories, "__defaults__", (50_000, 1))


@pytest.fixture
def installation(tmp_path):
    root = tmp_path / "lib"
    (root / "b").mkdir(parents=True)
    (root / "a.py").write_text("held out\n")
    (root / "b/b.py").write_text("print('one')\n")
    (root / "b/c.md").write_bytes(b"caf\xe9\n")
    (root / "data.bin").write_bytes(b"not text")
    return [root, root / "b"]


def test_a_corpus_is_built_once_and_is_reproducible(small_base):
    path = corpora.corpus("A", 100_000)
    text = path.read_bytes()
    facts = corpora.facts(path)
    assert 100_000 <= len(text) == facts["bytes"] < 105_000
    path.write_bytes(b"kept")
    assert corpora.corpus("A", 100_000).read_bytes() == b"kept"
    path.unlink()
    assert corpora.corpus("A", 100_000).read_bytes() == text
    assert corpora.facts(path) == facts


def test_most_names_are_rare(small_base):
    text = "".join(islice(corpora.stories(), 2000))
    names = [line.split()[0] for line in text.splitlines() if "heard of it and told" in line]
    assert 800 < len(names) < 1200
    assert len(set(names)) > 300
    assert text.count("<|endoftext|>") == 2000


def test_each_round_has_every_source_file_once_as_valid_text(installation):
    pieces = list(islice(corpora.sources(installation), 40))
    assert pieces == list(islice(corpora.sources(installation), 40))
    assert pieces.count("print('one')\n") >= 5
    assert pieces.count("caf�\n") >= 5
    assert "held out\n" not in pieces
    assert "held out\n" in islice(corpora.sources(installation, held_out=True), 3)
    assert "not text" not in "".join(pieces)


def test_without_an_installation_rare_words_remain(tmp_path):
    assert len("".join(islice(corpora.sources([tmp_path]), 300))) > 1000


def test_rare_words_have_numbers_and_several_scripts(installation):
    words = "".join(islice(corpora.sources(installation), 3000)).split()
    assert any(word.isdigit() for word in words)
    assert any("Ѐ" <= word[0] <= "ӿ" for word in words)
    assert any("一" <= word[0] <= "鿿" for word in words)
    assert len(set(words)) > 1500


def test_an_interrupted_build_leaves_no_file(tmp_path):
    def pieces():
        yield "some"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corpora.write(tmp_path / "c.txt", pieces(), 100)
    assert not list(tmp_path.glob("*c.txt*"))


def test_repeated_text(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("abc\n" * 1000)
    assert corpora.repeated(path, 3).read_text() == "abc\n" * 3000
