"""Split patterns that pass mean the same to `tokenizers`; those that do not are rejected, in both directions."""

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
# The newest of OpenAI's for cl100k, whose \p{N}{1,3}+ split 1,130 of 2,000 numbers differently in tokenizers.
OPENAI = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"""
    r"""|\s+(?!\S)|\s"""
)
SAME = [
    *(pattern.regex for pattern in NAMED.values()),
    # Qwen 2, DeepSeek 3, and OpenAI's with the two constructs written as the hints say
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    OPENAI.replace(r"\p{N}{1,3}+", r"(?>\p{N}{1,3})").replace("$", r"(?![\s\S])"),
    r"[\s\S]+",
    r"[\p{Han}\p{Hiragana}]+|[a-zà-ÿ]+|(?<=\d)\d|.|\s",
    r"\u0041+|\x42{2,}?|[^-a]|a{2}|\n",
]


@pytest.mark.parametrize("expression", SAME)
def test_what_passes_is_the_same_in_tokenizers(expression):
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
        (r"[\p{L}&&[^a]]+|.|\s", r"'\[\\\\p\{L\}&&\[\^a\]\]' at position 0; write it without sets in sets"),
        (r"[a[b]]+|.", "sets in sets"),
        (r"[\d-x]|.", "position 0"),
        (r"[[:alpha:]]+|.", "position 0"),
        (r"[a||b]|.", "position 0"),
        (OPENAI, r"'\{1,3\}\+.* at position \d+; for X\{1,3\}\+ write \(\?>X\{1,3\}\)"),
        (r"\s+$|\s|\S+", r"'\$.*\(\?!\[\\s\\S\]\)"),
        (r"^a|.", r"\(\?<!"),
        (r"\w+|\W", r"write \[\\p\{L\}\\p\{M\}"),
        (r".+?\b|\s", r"'\\\\b"),
        (r"\h+|.", "position 0"),
        (r"a{2}?|.", r"'\{2\}\?' at position 1; leave the \? out"),
        (r"a{,3}|.", r"'\{,3\}' at position 1; write the lower bound"),
        (r"a{b}|.", r"'\{' at position 1; for the character"),
        (r"(?s)a|.", r"'\(\?s\)' at position 0; leave the flags out"),
        (r"(?i)ab|.", "position 0"),
        (r"(?i:ss)|.", "both cases"),
        (r"(?i:[f]l)|.", "both cases"),
        (r"(?i:it)|.", "both cases"),
        (r"(?P<x>a)|.", "position 0"),
        (r"(a)\1|.", "position 3"),
        (r"\pL+|.", "position 0"),
        (r"\p{Punct}|.", "position 0"),
        (r"a(?:cat|dog){e<=1}|.", "position"),
        (r"a*|.", "a match of no characters"),
        ("\ud800|.", "position 0"),
    ],
)
def test_what_differs_is_rejected_in_both_directions(tmp_path, expression, named):
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


def test_a_folder_keeps_the_pattern_for_lmfast(tmp_path, caplog):
    """And no tokenizer.json, which would split differently."""
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
    with pytest.raises(UserError, match="another split"):
        whole.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="half a character"):
        Tokenizer(VOCAB, [], pattern="\ud800|.").save(tmp_path / "half")


def test_an_empty_pattern():
    with pytest.raises(UserError, match="pattern '': is empty; use one of gpt2"):
        get_pattern("")


def test_saving_runs_both(tmp_path, monkeypatch):
    """Superscripts are word characters to Oniguruma; İ is an i to `regex`."""
    monkeypatch.setattr(dialects, "difference", lambda expression: None)
    for expression, match in ((r"\w+|\W", "splits .* differently"), (r"(?P<x>a)|.", "cannot run")):
        with pytest.raises(UserError, match=match) as caught:
            Tokenizer(VOCAB, [], pattern=expression).save(tmp_path / "x.json")
        assert "\n" not in str(caught.value)


def test_a_split_that_drops_what_does_not_match(tmp_path):
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


def test_a_run_of_an_earlier_version_goes_on(tmp_path, caplog):
    """Its folder holds a pattern that Oniguruma reads otherwise: it was trained with what it means here."""
    folder = tmp_path / "run" / "tokenizer"
    Tokenizer({i: bytes([i]) for i in range(256)}, [], pattern=r"[\p{L}]+|\s|.").save(folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(r"[\\p{L}]+", r"\\w+"))
    with pytest.raises(UserError, match="split pattern"):
        Tokenizer.load(folder)
    (tmp_path / "run" / "config.yaml").touch()
    tokenizer = Tokenizer.load(folder)
    assert "goes on so" in caplog.text and tokenizer.pattern.regex.startswith(r"\w+")
