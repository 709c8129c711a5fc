import pytest

from lmfast.data.chat import add_chat_tokens
from lmfast.data.chat_records import Message, Preference
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.preference_rows import pair_rows


def preference(prompt: str, chosen: str, rejected: str) -> Preference:
    return Preference(
        *(
            (Message(role, text),)
            for role, text in (("user", prompt), ("assistant", chosen), ("assistant", rejected))
        )
    )


@pytest.fixture(scope="module")
def tokenizer():
    return add_chat_tokens(Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"]))


def test_pairs_are_rows_of_the_longest_answer(tokenizer):
    training, held = pair_rows([preference("p", "yes", "n")], [preference("q", "a", "b")], tokenizer, 20, "f")
    assert training.shape == (1, 2, 9) and held.shape == (1, 2, 9)
    printed = [tokenizer.decode(row["id"][row["loss"]]) for row in training[0]]
    assert printed == ["yes<|end|>", "n<|end|>"]
    assert pair_rows([preference("p", "yes", "n")], [], tokenizer, 20, "f")[1].shape == (0, 2, 9)


def test_truncation_by_the_context_is_reported_or_rejected(tokenizer, capsys):
    pairs = [
        preference("p", "yes", "no"),
        preference("p", "xxx1", "xxx2"),
        preference("a long prompt", "a", "b"),
    ]
    training, _ = pair_rows(pairs, [], tokenizer, 8, "f.json")
    assert training.shape == (1, 2, 8)
    printed = capsys.readouterr().out
    assert "f.json, chosen: longer than 7 tokens" in printed and "1 record skipped" in printed
    assert "skipped 1 pair with identical answers within the context" in printed
    with pytest.raises(UserError, match="no record has an answer within 3 tokens"):
        pair_rows(pairs, [], tokenizer, 4, "f.json")
