"""dialects.py: accepted split patterns mean the same to `tokenizers`; others are rejected when saved and when loaded."""

import json
import random

import pytest
import tokenizers

from lmfast.errors import UserError
from lmfast.tokenizer import dialects
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.dialects import SAMPLES, check_saveable, difference
from lmfast.tokenizer.patterns import NAMED, get_pattern

VOCAB = {byte: bytes([byte]) for byte in range(256)}
# OpenAI's newest pattern for cl100k, whose \p{N}{1,3}+ splits 1,130 of 2,000 numbers differently in tokenizers.
OPENAI = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"""
    r"""|\s+(?!\S)|\s"""
)
SAME = [
    *(pattern.regex for pattern in NAMED.values()),
    # Qwen 2, DeepSeek 3, and OpenAI's with two constructs written as the hints suggest
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    OPENAI.replace(r"\p{N}{1,3}+", r"(?>\p{N}{1,3})").replace("$", r"(?![\s\S])"),
    r"[\s\S]+",
    r"[\p{Han}\p{Hiragana}]+|[a-zà-ÿ]+|(?<=\d)\d|.|\s",
    r"\u0041+|\x42{2,}?|[^-a]|a{2}|\n",
    r"[\p{L}\p{M}&&[^\p{Han}a-f]]+|[a-z&&[aeiou]]+|.|\s",
]


@pytest.mark.parametrize("expression", SAME)
def test_accepted_patterns_split_like_tokenizers(expression):
    assert difference(expression) is None
    check_saveable(get_pattern(expression), "x")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    rng = random.Random(0)
    letters = sorted({*"".join(SAMPLES)} - {"İ"})
    for _ in range(200):
        text = "".join(rng.choices(letters, k=30)) + "".join(rng.choices("a1 '\n2", k=30))
        assert [piece for piece, _ in split.pre_tokenize_str(text)] == dialects._pieces(expression, text)


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        (r"[\p{L}--[a]]+|.|\s", r"'\[\\\\p\{L\}--\[a\]\]' at position 0; write it without nested sets"),
        (r"[a[b]]+|.", "nested sets"),
        (r"[\d-x]|.", "position 0"),
        (r"[[:alpha:]]+|.", "position 0"),
        (r"[a||b]|.", "position 0"),
        (OPENAI, r"'\{1,3\}\+.* at position \d+; for X\{1,3\}\+ write \(\?>X\{1,3\}\)"),
        (r"\s+$|\s|\S+", r"'\$.*\(\?!\[\\s\\S\]\)"),
        (r"^a|.", r"\(\?<!"),
        (r"\w+|\W", r"write \[\\p\{L\}\\p\{M\}"),
        (r".+?\b|\s", r"'\\\\b"),
        (r"\h+|.", "position 0"),
        (r"a{2}?|.", r"'\{2\}\?' at position 1; remove the \?"),
        (r"a{,3}|.", r"'\{,3\}' at position 1; write the lower bound"),
        (r"a{b}|.", r"'\{' at position 1; for the character"),
        (r"(?s)a|.", r"'\(\?s\)' at position 0; remove the flags"),
        (r"(?i)ab|.", "position 0"),
        (r"(?i:ss)|.", "both cases"),
        (r"(?i:[f]l)|.", "both cases"),
        (r"(?i:it)|.", "both cases"),
        (r"(?P<x>a)|.", "position 0"),
        (r"(a)\1|.", "position 3"),
        (r"\pL+|.", "position 0"),
        (r"\p{Punct}|.", "position 0"),
        (r"a(?:cat|dog){e<=1}|.", "position"),
        (r"a*|.", "matches the empty string"),
        ("\ud800|.", "position 0"),
    ],
)
def test_other_patterns_are_rejected_when_saved_and_loaded(tmp_path, expression, named):
    tokenizer = Tokenizer(VOCAB, [], pattern=expression)
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match=named) as caught:
        tokenizer.save(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    Tokenizer(VOCAB, [], pattern=r"a|[\s\S]").save(tmp_path / "x.json")
    document = json.loads((tmp_path / "x.json").read_text())
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = expression
    (tmp_path / "x.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=named) as caught:
        Tokenizer.load(tmp_path / "x.json")
    assert "--pattern" in str(caught.value)
    assert Tokenizer.load(tmp_path / "x.json", pattern=expression).pattern.regex == expression


def test_a_folder_stores_a_pattern_that_only_lmfast_reads(tmp_path, caplog):
    """Without a tokenizer.json, which would split differently."""
    expression = r"\w+|\W+"
    merges = [(b"a", b"b")]
    tokenizer = Tokenizer(VOCAB | {256: b"ab"}, merges, {"<|x|>": 257}, pattern=expression)
    Tokenizer(VOCAB, []).save(tmp_path)
    tokenizer.save(tmp_path)
    assert "saved without a tokenizer.json" in caplog.text and not (tmp_path / "tokenizer.json").exists()
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        assert Tokenizer.load(path).fingerprint() == tokenizer.fingerprint()
    assert Tokenizer.load(tmp_path, pattern="gpt2").pattern.name == "gpt2"
    Tokenizer(VOCAB, [], pattern="gpt2").save(tmp_path)
    assert Tokenizer.load(tmp_path / "vocab.json").pattern.name == "gpt2"
    whole = Tokenizer(VOCAB | {256: b"ab", 257: b"cd"}, merges, pattern=expression, ignore_merges=True)
    assert whole.ignore_merges
    with pytest.raises(UserError, match="splits differently"):
        whole.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="lone surrogate"):
        Tokenizer(VOCAB, [], pattern="\ud800|.").save(tmp_path / "half")


def test_an_empty_pattern():
    with pytest.raises(UserError, match="pattern '': is empty; use one of gpt2"):
        get_pattern("")


def test_saving_compares_with_tokenizers(tmp_path, monkeypatch):
    """Oniguruma counts superscripts as word characters; `regex` matches İ as i."""
    monkeypatch.setattr(dialects, "difference", lambda expression: None)
    for expression, match in ((r"\w+|\W", "splits .* differently"), (r"(?P<x>a)|.", "cannot run")):
        with pytest.raises(UserError, match=match) as caught:
            Tokenizer(VOCAB, [], pattern=expression).save(tmp_path / "x.json")
        assert "\n" not in str(caught.value)


def test_a_split_that_drops_unmatched_text(tmp_path):
    path = tmp_path / "x.json"
    for expression, passes in ((NAMED["cl100k"].regex, True), (r"\p{L}+", False)):
        Tokenizer(VOCAB, [], pattern=expression).save(path)
        document = json.loads(path.read_text())
        document["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
        path.write_text(json.dumps(document))
        if passes:
            assert Tokenizer.load(path).pattern.name == "cl100k"
        else:
            with pytest.raises(UserError, match="is not supported"):
                Tokenizer.load(path)


def test_a_run_of_an_older_version_still_loads(tmp_path, caplog):
    """Its folder contains a pattern that Oniguruma reads differently; the run was trained with lmfast's reading."""
    folder = tmp_path / "run" / "tokenizer"
    Tokenizer({i: bytes([i]) for i in range(256)}, [], pattern=r"[\p{L}]+|\s|.").save(folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(r"[\\p{L}]+", r"\\w+"))
    with pytest.raises(UserError, match="split pattern"):
        Tokenizer.load(folder)
    (tmp_path / "run" / "config.yaml").touch()
    tokenizer = Tokenizer.load(folder)
    assert "which is used here too" in caplog.text and tokenizer.pattern.regex.startswith(r"\w+")
