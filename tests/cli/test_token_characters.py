import itertools
import random

from lmfast.cli.token_characters import Characters, characters


def test_a_character_belongs_to_the_last_of_its_tokens():
    euro = "€".encode()
    assert characters([b"a", euro[:1], euro[1:2], euro[2:] + b"b" + euro[:1], euro[1:], b"c"]) == [
        Characters("a"),
        Characters("", "€"),
        Characters("", "€"),
        Characters("€b", "€€"),
        Characters("€", "€"),
        Characters("c"),
    ]


def test_bytes_of_no_character_are_escaped_in_their_own_token():
    assert characters([b"\xe2", b"a", b"\xff\xc3", b"\xc3", b"\xa9", b"", b"\xf0\x9f"]) == [
        Characters("\\xe2"),
        Characters("a"),
        Characters("\\xff\\xc3"),
        Characters("", "é"),
        Characters("é", "é"),
        Characters(""),
        Characters("\\xf0\\x9f"),
    ]
    assert characters([]) == []


def test_texts_join_to_the_text_however_it_is_cut():
    text = "naïve 短い 😀 ½ a\u0301 \U0010ffff"
    data, random_cuts = text.encode(), random.Random(0)
    for _ in range(200):
        cuts = [0, *sorted(random_cuts.choices(range(len(data)), k=9)), len(data)]
        pieces = [data[a:b] for a, b in itertools.pairwise(cuts)]
        assert "".join(found.text for found in characters(pieces)) == text
