"""formats.py and the files of each format, compared with the packages that define them: same ids in both directions."""

import json
from pathlib import Path

import pytest
import tiktoken
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lmfast.errors import UserError
from lmfast.tokenizer import formats
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.byte_characters import byte_characters, spell, unspell
from lmfast.tokenizer.training import train_bpe

SPECIAL = ["<|endoftext|>", "<|a b|>"]
TEXT = (
    "One day, a little girl named Lily found a needle in her room. She knew it was difficult to play with it.\n"
    "“We're going,” they'LL say; it's 12345 o'clock…\n\n  Größe, naïve, 日本語, здравствуй мир, 🙂🙂 \t tabs\r\n"
) * 5
SAMPLES = [
    TEXT,
    "",
    " ",
    "\n" * 50,
    "x" * 3000,
    "'s" * 50,
    "today\n \n",
    "a \n\n  b",
    "<|endoftext|>a<|endoftext|><|endoftext|> b<|a b|>c <|a b|>",
    "they'LL 'ſ ǅ",
    "0123456789 ١٢٣ ½",
]


def train(folder: Path, pattern: str) -> Tokenizer:
    source = folder / "text.txt"
    source.write_text(TEXT + "<|endoftext|>" + TEXT[::-1], encoding="utf-8")
    return train_bpe(source, 450, special_tokens=SPECIAL, pattern=pattern)


@pytest.fixture(scope="module", params=["gpt2", "cl100k", "o200k"])
def trained(request, tmp_path_factory) -> Tokenizer:
    return train(tmp_path_factory.mktemp("text"), request.param)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Tokenizer:
    return train(tmp_path_factory.mktemp("text"), "gpt2")


def same(a: Tokenizer, b: Tokenizer) -> None:
    assert a.vocab == b.vocab and a.merges == b.merges
    assert a.special_tokens == b.special_tokens and a.pattern == b.pattern
    assert a.fingerprint() == b.fingerprint()


def test_byte_characters_are_gpt2s():
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert spell(b" the\n\x00\xad") == "ĠtheĊĀŃ"
    assert dict(enumerate(characters)) == bytes_to_unicode()


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.binary(max_size=40))
def test_spelling_round_trips(token):
    assert unspell(spell(token)) == token


def test_unspell_returns_none_for_other_characters():
    assert unspell("a b") is None and unspell("日") is None


def test_folder_round_trip(trained, tmp_path):
    trained.save(tmp_path / "tok")
    assert sorted(path.name for path in (tmp_path / "tok").iterdir()) == [
        "merges.txt",
        "tokenizer.json",
        "vocab.json",
    ]
    same(Tokenizer.load(tmp_path / "tok"), trained)
    (tmp_path / "tok" / "tokenizer.json").unlink()
    for path in ("tok", "tok/vocab.json", "tok/merges.txt"):
        same(Tokenizer.load(tmp_path / path, pattern=trained.pattern.name), trained)
    named = Tokenizer.from_files(
        tmp_path / "tok/vocab.json", tmp_path / "tok/merges.txt", SPECIAL, pattern=trained.pattern.name
    )
    same(named, trained)


def test_tokenizer_json_in_tokenizers_and_transformers(trained, tmp_path):
    trained.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in SAMPLES:
        ids = trained.encode(text)
        assert theirs.encode(text).ids == ids, text
        assert fast.encode(text) == ids, text
        assert theirs.decode(ids, skip_special_tokens=False) == text
    # The file that tokenizers writes loads as the same tokenizer.
    theirs.save(str(tmp_path / "again.json"))
    same(Tokenizer.load(tmp_path / "again.json"), trained)


def test_vocab_and_merges_in_tokenizers(gpt2, tmp_path):
    gpt2.save(tmp_path)
    model = tokenizers.models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in SAMPLES:
        assert theirs.encode(text).ids == gpt2.encode(text, allowed_special="none")


def test_tiktoken_ranks(trained, tmp_path):
    path = tmp_path / "ranks.tiktoken"
    trained.save(path)
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=trained.pattern.regex,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens=trained.special_tokens,
        explicit_n_vocab=trained.vocab_size,
    )
    for text in SAMPLES:
        assert theirs.encode(text, allowed_special="all") == trained.encode(text)
        assert theirs.encode_ordinary(text) == trained.encode(text, allowed_special="none")
    same(Tokenizer.load(path, pattern=trained.pattern.name, special_tokens=trained.special_tokens), trained)
    same(Tokenizer.load(path, pattern=trained.pattern.name, special_tokens=SPECIAL), trained)
    with pytest.raises(UserError, match=r"ranks.tiktoken: does not contain the split pattern"):
        Tokenizer.load(path)


@pytest.fixture
def permuted(trained) -> Tokenizer:
    """The same merges with GPT-2-like ids: bytes in the order of their characters, a special token first."""
    order = sorted(range(256), key=lambda byte: byte_characters()[byte])
    vocab = {1 + i: bytes([byte]) for i, byte in enumerate(order)}
    vocab |= {257 + i: a + b for i, (a, b) in enumerate(trained.merges)}
    return Tokenizer(vocab, trained.merges, {"<|endoftext|>": 0}, trained.pattern)


def test_foreign_ids_are_kept(permuted, trained, tmp_path):
    permuted.save(tmp_path / "tok")
    same(Tokenizer.load(tmp_path / "tok"), permuted)
    (tmp_path / "tok/tokenizer.json").unlink()
    same(Tokenizer.load(tmp_path / "tok", pattern=trained.pattern.name), permuted)
    assert permuted.encode("<|endoftext|>!")[0] == 0
    assert [permuted.vocab[i] for i in permuted.encode(TEXT)] == [
        trained.vocab[i] for i in trained.encode(TEXT)
    ]
    permuted.save(tmp_path / "x.tiktoken")
    same(
        Tokenizer.load(tmp_path / "x.tiktoken", trained.pattern.name, {"<|endoftext|>": 0}),
        permuted,
    )


def test_ranks_need_ids_in_the_order_of_the_merges(trained, tmp_path):
    vocab = {i: bytes([i]) for i in range(256)} | {900 - i: a + b for i, (a, b) in enumerate(trained.merges)}
    with pytest.raises(UserError, match=r"x.tiktoken: ids do not increase"):
        Tokenizer(vocab, trained.merges).save(tmp_path / "x.tiktoken")
    assert list(tmp_path.iterdir()) == []


def write_student_files(folder: Path, vocab: dict, merges: str) -> tuple[Path, Path]:
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


@pytest.mark.parametrize("header", ["", "#version: 0.2\n"])
@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
@pytest.mark.parametrize("special", ["<|endoftext|>", "<|endĠofĠtext|>", "<|end of text|>"])
def test_course_style_files(tmp_path, header, end, special):
    # A special token first or among the bytes, spelt or not; a merge of "#" that is not a header.
    vocab = {special: 0} | {spell(bytes([byte])): byte + 1 for byte in range(256)} | {"##": 257, "Ġt": 258}
    files = write_student_files(tmp_path, vocab, header + "# #\nĠ t" + end)
    text = special.replace("Ġ", " ")
    for tokenizer in (
        Tokenizer.from_files(*files),
        Tokenizer.from_files(*files, special_tokens=[text]),
        Tokenizer.load(tmp_path),
    ):
        assert tokenizer.merges == [(b"#", b"#"), (b" ", b"t")]
        assert tokenizer.special_tokens == {text: 0}
        assert tokenizer.encode(f"##{text} t") == [257, 0, 258]


def test_new_special_tokens_get_ids_after_the_vocabulary(tmp_path):
    vocab = {spell(bytes([byte])): byte for byte in range(256)} | {"<|endoftext|>": 256}
    files = write_student_files(tmp_path, vocab, "")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Tokenizer.from_files(*files, special_tokens=["<|endoftext|>", "<|pad|>"])
    assert tokenizer.special_tokens == {"<|endoftext|>": 256, "<|pad|>": 257}
    assert tokenizer.vocab_size == 258


def test_merges_of_tokenizer_json_as_strings(trained, tmp_path):
    trained.save(tmp_path / "tokenizer.json")
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    document["model"]["ignore_merges"] = True  # no difference where merges produce every token
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    same(Tokenizer.load(tmp_path / "tokenizer.json"), trained)


BYTES = {spell(bytes([byte])): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("vocab.json", "{", r"vocab.json: is not valid JSON"),
        ("vocab.json", "", r"vocab.json: is empty"),
        ("vocab.json", "[1]", r"vocab.json: is not a vocabulary"),
        ("vocab.json", json.dumps(BYTES | {"Ġt": "257"}), r"vocab.json: entry 'Ġt' has the id '257'"),
        ("vocab.json", json.dumps(BYTES | {"Ġt": 7}), r"vocab.json: id 7 belongs to"),
        (
            "vocab.json",
            json.dumps({"a": 0, "Ġ": 1, "t": 2, "Ġt": 3}),
            r"lacks 94 of the characters of ASCII text",
        ),
        ("merges.txt", "Ġ t x\n", r"merges.txt: merge 1 is 'Ġ t x'"),
        ("merges.txt", "#version: 0.2\nĠ t\nĠ 日\n", r"merges.txt: merge 3, 'Ġ 日', is not spelt"),
        (
            "merges.txt",
            "Ġ t\nq x\n",
            r"merges.txt: merge 2 \(q \+ x\) needs 'qx', which vocab.json does not contain",
        ),
        ("merges.txt", b"\xff\xfe\n", r"merges.txt: is not UTF-8"),
    ],
)
def test_broken_vocab_and_merges(tmp_path, name, content, match):
    write_student_files(tmp_path, BYTES | {"Ġt": 256}, "Ġ t\n")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=match) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def change(document: dict, where: str, value) -> None:
    *path, last = where.split(".")
    for step in path:
        document = document[step]
    document[last] = value


@pytest.mark.parametrize(
    ("where", "value", "match"),
    [
        ("model", {"type": "Unigram", "vocab": []}, "not a tokenizer.json with a BPE model"),
        ("normalizer", {"type": "NFKC"}, "has a normalizer"),
        ("model.dropout", 0.1, "dropout 0.1 is not supported"),
        ("model.end_of_word_suffix", "</w>", "end_of_word_suffix '</w>'"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre-tokenizer .* is not supported"),
        ("pre_tokenizer", None, "pre-tokenizer .* is not supported"),
        (
            "pre_tokenizer",
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": True},
                ],
            },
            r"add_prefix_space after \['Digits'\]",
        ),
        ("decoder", {"type": "Metaspace"}, r"decoder \['Metaspace'\] is not supported"),
        ("model.merges", [["Ġ", "Q"]], "does not contain|needs"),
        ("model.merges", 5, "'merges' is 5, not a list"),
        ("model.merges", "Ġ t", "not a list"),
        ("model.merges", [5], "merge 1 is 5"),
        ("model.merges", {"a": "b"}, "not a list"),
        ("model.type", "Unigram", "not a tokenizer.json with a BPE model \\(its type is 'Unigram'\\)"),
        ("model.type", "WordPiece", "its type is 'WordPiece'"),
        ("model.type", 7, "its type is 7"),
        ("model.vocab", [["a", 0.5]], "not a vocabulary"),
        ("model.vocab", None, "not a vocabulary"),
        ("model", 5, "'model' is 5, not an object"),
        ("added_tokens", None, "'added_tokens' is null"),
        ("model", None, "'model' is null"),
        ("decoder", 5, "'decoder' is 5, not an object"),
        ("post_processor", 5, "'post_processor' is 5"),
        ("truncation", 5, "'truncation' is 5"),
        ("normalizer", "NFC", "has a normalizer .'NFC'"),
        ("normalizer", ["NFC"], "has a normalizer"),
        ("pre_tokenizer", "ByteLevel", "'pre_tokenizer' is \"ByteLevel\", not an object"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": 5}, "'pretokenizers' is 5, not a list"),
        (
            "pre_tokenizer",
            {"type": "Sequence", "pretokenizers": ["ByteLevel"]},
            "pre-tokenizer .* is not supported",
        ),
        (
            "pre_tokenizer",
            {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": "x"}, {"type": "ByteLevel"}]},
            "split .* is not supported",
        ),
        ("added_tokens", {"<|x|>": 300}, "'added_tokens' is .*, not a list"),
        ("added_tokens", ["<|x|>"], "added token .* has no content"),
        ("added_tokens", [{"id": 300}], "added token .* has no content"),
        ("added_tokens", [{"id": 300, "content": ""}], "has no content"),
        ("added_tokens", [{"id": "300", "content": "<|x|>"}], r"'<\|x\|>' has the id '300'"),
        ("added_tokens", [{"content": "<|x|>"}], "has the id None"),
        ("added_tokens", [{"id": -1, "content": "<|x|>"}], "has the id -1"),
        ("added_tokens", [{"id": 900, "content": "\ud800"}], r"'\\ud800' contains a lone surrogate"),
        ("added_tokens", [{"id": 5, "content": "<|x|>"}], "contradicts the vocabulary"),
        ("added_tokens", [{"id": 900, "content": "<|endoftext|>"}], "contradicts the vocabulary"),
        ("added_tokens", [{"id": i, "content": "<|x|>"} for i in (900, 901)], "two ids, 900 and 901"),
    ],
)
def test_unsupported_tokenizer_json(gpt2, tmp_path, where, value, match):
    path = tmp_path / "tokenizer.json"
    gpt2.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document, where, value)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=match) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_ambiguous_entries_not_in_byte_characters_are_rejected(gpt2, tmp_path):
    """`日` both as it is and in byte characters: text encoded by merges must not get the id of the former."""
    path = tmp_path / "tokenizer.json"
    gpt2.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    document["model"]["vocab"]["本と"] = 1000
    path.write_text(json.dumps(document))
    assert Tokenizer.load(path).decode([1000]) == "本と"
    document["model"]["ignore_merges"] = True
    path.write_text(json.dumps(document))
    with pytest.raises(
        UserError, match="entry '本と' is not spelt in GPT-2's byte characters, so no text is encoded"
    ):
        Tokenizer.load(path)
    document["model"]["ignore_merges"] = False
    del document["model"]["vocab"]["本と"]
    document["model"]["vocab"] |= {"æĹ¥": 1001, "日": 1000}
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="entry '日' is not spelt"):
        Tokenizer.load(path)


def test_json_that_is_not_a_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    for content, match in (
        ("[" * 100_000, r"tokenizer.json: is not valid JSON"),
        ("[1]", "not a tokenizer.json"),
        ('{"a": 1}', "not a tokenizer.json"),
        ("", r"^\S+tokenizer.json: is empty"),
        ("\ufeff{", "is not valid JSON"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=match) as caught:
            Tokenizer.load(path)
        assert "\n" not in str(caught.value) and str(caught.value).count(str(path)) == 1
    (tmp_path / "vocab.json").write_text(json.dumps(BYTES | {"\ud800": 256}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match=r"vocab.json: '\\ud800' contains a lone surrogate"):
        Tokenizer.load(tmp_path / "vocab.json")


def test_a_vocabulary_with_the_entry_model(tmp_path):
    """GPT-2's has it too: its vocab.json must not be read as a tokenizer.json."""
    write_student_files(
        tmp_path, BYTES | {"mo": 256, "de": 257, "mode": 258, "model": 259}, "m o\nd e\nmo de\nmode l\n"
    )
    assert Tokenizer.load(tmp_path).encode("model") == [259]
    assert Tokenizer.load(tmp_path / "vocab.json").encode("model") == [259]


def test_the_last_of_two_equal_merges_is_used(gpt2, tmp_path):
    vocab = BYTES | {"ab": 256, "bc": 257}
    write_student_files(tmp_path, vocab, "a b\nb c\na b\n")
    model = tokenizers.models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert (
        Tokenizer.load(tmp_path).encode("abc") == [97, 257] == tokenizers.Tokenizer(model).encode("abc").ids
    )


def test_paths_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match="contains no tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "vocab.json").write_text(json.dumps(BYTES))
    with pytest.raises(UserError, match=r"vocab.json: needs merges.txt in the same folder"):
        Tokenizer.load(tmp_path)


def test_a_text_shared_by_two_ids_is_rejected(tmp_path):
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"th", 257: b"Th"}
    tokenizer = Tokenizer(vocab, [(b"t", b"h")], {"th": 300})
    with pytest.raises(UserError, match=r"vocab.json: ids 256 and 300 would both be 'th'"):
        tokenizer.save(tmp_path / "tok")


def test_parts_of_a_file(tmp_path):
    write_student_files(tmp_path, BYTES | {"Ġt": 256, "<x>": 999}, "Ġ t\n")
    parts = formats.read(tmp_path)
    assert parts.pattern is None and parts.special_tokens == {"<x>": 999} and parts.merges == [(b" ", b"t")]
