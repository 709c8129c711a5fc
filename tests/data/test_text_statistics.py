import numpy as np
import pytest

from lmfast.data import text_statistics as text_statistics_module
from lmfast.data.text_statistics import file_words, text_statistics, token_words, words
from lmfast.errors import UserError


def test_words():
    assert words("Don't stop, 3 Hände!<|endoftext|>") == ["don", "t", "stop", "hände", "endoftext"]
    assert words("") == words(" 12 !\n") == []


def test_distinct_n_counts_over_all_texts():
    figures = text_statistics(["a b a b", "a c"])
    assert figures["distinct_1"] == pytest.approx(3 / 6)
    assert figures["distinct_2"] == pytest.approx(3 / 4)  # ab, ba, ab; ac
    assert figures["distinct_3"] == 1.0  # aba, bab


def test_repetition_is_a_mean_over_texts():
    loop, fresh = "one two three four " * 3, "a b c d e f"
    assert text_statistics([fresh])["repetition"] == 0.0
    assert text_statistics([loop])["repetition"] == pytest.approx(1 - 4 / 9)
    assert text_statistics([loop, fresh, "too short"])["repetition"] == pytest.approx((1 - 4 / 9) / 2)


def test_known_words():
    assert text_statistics(["The cat zat"], {"the", "cat"})["known_words"] == pytest.approx(2 / 3)
    assert "known_words" not in text_statistics(["The cat"])


def test_statistics_that_need_a_longer_text_are_omitted():
    assert text_statistics([""], {"a"}) == text_statistics([], {"a"}) == {}
    assert text_statistics(["a"]) == {"distinct_1": 1.0}


def test_the_words_of_a_file_are_those_of_its_text(corpus):
    text = corpus.text.read_text()
    found = file_words(corpus.text, ["<|endoftext|>"], num_workers=1)
    assert found == {word for part in text.split("<|endoftext|>") for word in words(part)}
    assert "endoftext" not in found and len(found) > 100
    with pytest.raises(UserError, match=r"none\.txt"):
        file_words(corpus.folder / "none.txt", [])


@pytest.mark.parametrize("piece", [1 << 23, 1200, 1500])
def test_words_of_ids_equal_words_of_their_text_wherever_it_is_cut(corpus, monkeypatch, piece):
    from lmfast.tokenizer.bpe import Tokenizer

    monkeypatch.setattr(text_statistics_module, "PIECE", piece)
    tokens, tokenizer = np.load(corpus.train), Tokenizer.load(corpus.tokenizer)
    assert token_words(tokens, tokenizer, num_workers=1) == file_words(
        corpus.text, ["<|endoftext|>"], num_workers=1
    )


def test_a_limit_reads_the_beginning(corpus):
    from lmfast.tokenizer.bpe import Tokenizer

    tokens, tokenizer = np.load(corpus.train), Tokenizer.load(corpus.tokenizer)
    some = token_words(tokens, tokenizer, limit=50, num_workers=1)
    assert some == set(words(tokenizer.decode(tokens[:50].tolist()).replace("<|endoftext|>", " ")))


def test_a_word_of_many_tokens_is_still_found(corpus, monkeypatch):
    from lmfast.tokenizer.bpe import Tokenizer

    monkeypatch.setattr(text_statistics_module, "PIECE", 64)
    tokenizer = Tokenizer.load(corpus.tokenizer)
    ids = tokenizer.encode_array("x" * 40 + " y " * 100)
    assert {"x" * 40, "y"} <= token_words(ids, tokenizer, num_workers=1)
