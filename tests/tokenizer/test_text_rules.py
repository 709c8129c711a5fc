"""Kinds of published tokenizers compared with `tokenizers`: ids, decoded text, every way to encode, saving, cuts, NFC."""

import copy
import json
import random

import numpy as np
import pytest
import regex
import tokenizers

from lmfast.errors import UserError
from lmfast.tokenizer import bpe, encoding, streaming, text_file
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.chunks import next_cut
from lmfast.tokenizer.encoding import SpecialFinder
from lmfast.tokenizer.text_rules import nfc
from tests.tokenizer.real_kinds import KINDS, byte_level, document, make, sequence, split

PIECES = [
    *("a", "b", "ab", "abc", "the", " the", "zq", "!!", "x", "e", "'s", "'S", "12", "1", "123", "1234"),
    *("_", ".", "/", "<", ">"),
    *(" ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\x1c", "\x00", " \n"),
    *("é", "e\u0301", "\u0301", "\u0323", "\u0338", "\u0958", "\u1100\u1161", "\u11a8", "\u1df6", "Å", "\u212b", "\ufb1d"),
    *("漢", "漢字", "日", "。", "・", "⺀", "〇", "ー", "\u3099", "µ", "ſ", "😀", "\u200d", "\U0010ffff", "½", "٣"),
]  # fmt: skip


def texts(count: int, tokens: list[str], seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    pieces = PIECES + tokens * 4
    return ["".join(rng.choices(pieces, k=rng.randint(0, 30))) for _ in range(count)]


@pytest.fixture(scope="module", params=sorted(KINDS))
def pair(request, tmp_path_factory):
    """(ours, theirs)."""
    path = tmp_path_factory.mktemp("kind") / "tokenizer.json"
    path.write_text(json.dumps(document(request.param)), encoding="utf-8")
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


class Never:
    """In place of an Allowance: plain Python does nothing."""

    def covers(self, amount: int) -> bool:
        return False


def compiled(ours: Tokenizer) -> Tokenizer:
    """A copy that only uses compiled code."""
    copied = copy.copy(ours)
    vars(copied)["_plain_bytes"] = Never()
    return copied


@pytest.fixture(scope="module")
def both(pair):
    """The tokenizer, and a copy that only uses compiled code, which is the same for most kinds."""
    ours, _ = pair
    needed = ours.rules.prefix_space or ours.ignore_merges or ours.pattern.name in ("deepseek", "custom")
    return [ours, compiled(ours)] if needed else [ours]


def test_ids_and_decoded_text_are_theirs(pair, both):
    ours, theirs = pair
    for text in ["", *texts(250, list(ours.special_tokens))]:
        expected = theirs.encode(text, add_special_tokens=False).ids
        for tokenizer in both:
            assert tokenizer.encode(text) == tokenizer.encode(text.encode()) == expected, text
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False), text
    assert not both[1:] or isinstance(both[1]._encoder_for(1), encoding.Encoder)


def test_a_saved_file_means_the_same_to_both(pair, tmp_path):
    ours, theirs = pair
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint() == ours.fingerprint() and again.rules == ours.rules
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in texts(80, list(ours.special_tokens), seed=1):
        expected = theirs.encode(text, add_special_tokens=False)
        assert saved.encode(text, add_special_tokens=False).ids == expected.ids, text
        assert saved.decode(expected.ids) == theirs.decode(expected.ids)
    if (tmp_path / "vocab.json").exists():
        (tmp_path / "tokenizer.json").unlink()
        pattern = ours.pattern.name if ours.pattern.name != "custom" else ours.pattern.regex
        assert Tokenizer.load(tmp_path, pattern, ours.special_tokens).encode("ab 12 é") == ours.encode(
            "ab 12 é"
        )


def test_ids_do_not_depend_on_cuts(pair, monkeypatch):
    ours, _ = pair
    finder = SpecialFinder(ours.special_tokens, ours.rules)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 8)
    rng, cuts = random.Random(2), 0
    for text in texts(120, list(ours.special_tokens), seed=3):
        text = f"{text} ab 漢。a the <|end|>. <mask> ab {text}" if rng.random() < 0.5 else text
        data, expected = text.encode(), ours.encode(text)
        begin, ids = 0, []
        while begin < len(data):
            end = next_cut(np.frombuffer(data, np.uint8), begin + 1, finder.specials, ours.pattern)
            ids += ours.encode(data[begin:end])
            cuts += end < len(data)
            begin = end
        assert ids == expected, text
        size = rng.randint(1, 9)
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(ours.encode_iterable(chunks)) == expected, text
    assert cuts > 20


def test_files_have_the_ids_of_the_text(pair, both, tmp_path, monkeypatch):
    ours, _ = pair
    text = " ab <|end|> the 漢字。e\u0301 ".join(texts(20, list(ours.special_tokens), seed=4))
    source = tmp_path / "text.txt"
    source.write_bytes(text.encode())
    monkeypatch.setattr(text_file, "CHUNK_BYTES", 256)
    monkeypatch.setattr(encoding, "CHUNK_BYTES", 256)
    summaries = []
    for tokenizer in both:
        summary = tokenizer.encode_file(source, tmp_path / "ids.npy", num_workers=2)
        assert np.load(tmp_path / "ids.npy").tolist() == ours.encode(text)
        summaries.append((summary.tokens, summary.bytes, summary.specials, summary.special_bytes))
    assert len({*summaries}) == 1


def test_special_tokens_that_a_call_does_not_allow_are_text(pair, both):
    ours, theirs = pair
    theirs.encode_special_tokens = True  # of those that are special
    try:
        allowed = {
            text
            for text in ours.special_tokens
            if not theirs.get_added_tokens_decoder()[ours.special_tokens[text]].special
        }
        for text in texts(40, list(ours.special_tokens), seed=5):
            expected = theirs.encode(text, add_special_tokens=False).ids
            ids = [tokenizer.encode(text, allowed_special=allowed) for tokenizer in both]
            assert ids.count(ids[0]) == len(ids)
            if not any(
                flags.normalized for flags in ours.rules.flags.values()
            ):  # theirs ends normalized text there
                assert ids[0] == expected, text
    finally:
        theirs.encode_special_tokens = False


def test_only_tokenizers_that_need_it_touch_the_text(pair, request):
    kind = request.node.callspec.params["pair"]
    assert (pair[0]._ruled_text is not None) == (
        kind in {"qwen2", "gpt-neox", "smollm", "prefix", "flags", "all"}
    )


def test_nfc_is_theirs():
    """For all combining marks, before and after others, and all pairs that compose."""
    theirs = tokenizers.normalizers.NFC()
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    marks = regex.findall(r"[^\p{Canonical_Combining_Class=0}]", every)
    assert len(marks) > 900
    contexts = ("a{}\u0316\u0301", "a\u0301{}", "\u0958{}", "{}\u0301\u0334")
    composed = regex.findall(
        r"[\U00011930-\U00011938\U000105d2-\U000105da\U00011380-\U000113d0\U00016120-\U0001612f\U00016d60-\U00016d6a]",
        every,
    )
    pairs = [a + b for a in composed[:40] for b in (*composed[:40], "\u0307")]
    text = "\n".join(
        [*(context.replace("{}", mark) for mark in marks for context in contexts), *pairs, *composed]
    )
    for line in text.split("\n"):
        assert nfc(line) == theirs.normalize_str(line), line


def test_bytes_that_a_vocabulary_lacks_are_rejected(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document("smollm")))
    ours = Tokenizer.load(path)
    for tokenizer in (ours, compiled(ours)):
        for absent in (b"\xff", b"\x04", "\U00050000".encode()):
            with pytest.raises(
                UserError, match=f"byte {absent[0]:#04x} at position 1 is not in this vocabulary"
            ):
                tokenizer.encode(b"a" + absent)
        assert tokenizer.decode_bytes(tokenizer.encode(b"a\x80 \xed\xa0\x80")) == b"a\x80 \xed\xa0\x80"


FLAG = [("<mask>", {"lstrip": True})]
REJECTED = {
    "rstrip": (
        make(byte_level(True), [("</s>", {"rstrip": True}), ("  ", {})]),
        "'</s>' sets rstrip and '  ' begins with whitespace",
    ),
    "not nfc": (
        make(byte_level(True), [("日e\u0301", {"normalized": True})], {"type": "NFC"}),
        "sets normalized, and is not in NFC",
    ),
    "spelling": (
        make(byte_level(True), [("Ã©", {})]),
        r"'Ã©' is also the spelling of b'\\xc3\\xa9', which merges make",
    ),
    "behavior": (
        make(sequence(split("a", "MergedWithNext"), byte_level(False))),
        "MergedWithNext.*is not supported",
    ),
    "punctuation": (make(sequence({"type": "Punctuation"}, byte_level(False))), "'Punctuation'"),
    "order": (make(sequence(byte_level(True), split("a"))), r"\['ByteLevel', 'Split'\] is not supported"),
    "normalizer": (
        make(
            byte_level(True),
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend"}]},
        ),
        "has a normalizer \\(Prepend\\)",
    ),
    "word": (
        make(byte_level(True), [("ab", {"single_word": True})], ignore_merges=True),
        "single_word and is in the vocabulary",
    ),
}


def test_an_added_token_that_tokenizers_decodes_differently_is_reported(tmp_path, caplog):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(make(byte_level(True), [("éé", {})])))
    ours, theirs = Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))
    assert "added token 'éé'" in caplog.text
    (token,) = ours.special_tokens.values()
    assert (ours.decode([token]), theirs.decode([token], skip_special_tokens=False)) == ("éé", "\ufffd\ufffd")


@pytest.mark.parametrize("kind", REJECTED)
def test_what_is_not_supported_is_rejected_by_name(kind, tmp_path):
    content, match = REJECTED[kind]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=match) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_ids_of_added_tokens_that_tokenizers_does_not_use(tmp_path):
    content = copy.deepcopy(document("llama3"))
    content["added_tokens"][0]["id"] += 1
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has id \d+, but tokenizers gives it \d+"):
        Tokenizer.load(path)
    content["model"]["vocab"]["<|end|>"] = content["added_tokens"][0]["id"]
    path.write_text(json.dumps(content))
    assert (
        Tokenizer.load(path).encode("<|end|>")
        == tokenizers.Tokenizer.from_file(str(path)).encode("<|end|>").ids
    )


def test_formats_that_cannot_represent_the_rules(pair, tmp_path):
    ours, _ = pair
    if ours._ruled_text is None:
        return
    (tmp_path / "vocab.json").write_text("{}")
    ours.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    with pytest.raises(UserError, match=r"x.tiktoken: .tiktoken cannot represent"):
        ours.save(tmp_path / "x.tiktoken")
    assert bpe.Tokenizer(ours.vocab, ours.merges, ours.special_tokens).fingerprint() != ours.fingerprint()
