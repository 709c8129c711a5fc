import json
import random

import pytest

from lmfast.data.chat import CHAT_SPECIALS, add_chat_tokens, render, render_prompt
from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.interop.chat_template import chat_template
from lmfast.tokenizer.bpe import Tokenizer

transformers = pytest.importorskip("transformers")

PIECES = [
    *["", " ", "  ", "\n", "\r\n", "\n\n", "\t", "\u00a0", "\u2028", "\x00", "\ufeff", "\x85"],
    *[
        "Once upon a time",
        "a cat",
        " the dog",
        "they'LL",
        "'",
        '"',
        "\\",
        "\\n",
        "{{ bos }}",
        "{% if x %}",
        "{# #}",
    ],
    *[
        "<|",
        "|>",
        "<|end",
        "end|>",
        "|><|",
        "<|endoftext",
        "<b>",
        "<|end|>",
        "<|user|>",
        "it's 12345 o'clock",
    ],
    *["naïve", "e\u0301", "日本語", "🙂\u200d🙂", "ß", "ſ", "\ud7ff", "\U0010ffff"],
]


def conversation(rng: random.Random) -> list[Message]:
    return [
        Message(rng.choice(["user", "assistant", "system"]), "".join(rng.choices(PIECES, k=rng.randrange(6))))
        for _ in range(rng.randrange(1, 7))
    ]


def hugging_face(tokenizer: Tokenizer, folder):
    """The tokenizer as transformers loads it from a folder."""
    tokenizer.save(folder / "tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"chat_template": chat_template(tokenizer)})
    )
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return add_chat_tokens(Tokenizer.load(corpus.tokenizer))


@pytest.fixture(scope="module")
def loaded(tokenizer, tmp_path_factory):
    return hugging_face(tokenizer, tmp_path_factory.mktemp("tokenizer"))


def applied(loaded, messages, **options):
    messages = [message._asdict() for message in messages]
    return loaded.apply_chat_template(messages, return_dict=True, **options)


def test_random_conversations_have_our_ids_and_loss_mask(tokenizer, loaded):
    rng = random.Random(0)
    with_loss = rejected = 0
    for _ in range(200):
        messages = conversation(rng)
        if any(text in message.content for message in messages for text in tokenizer.special_tokens):
            with pytest.raises(Exception, match="contains the special token <"):
                applied(loaded, messages)
            rejected += 1
            continue
        expected = render(messages, tokenizer)
        found = applied(loaded, messages, return_assistant_tokens_mask=True)
        assert found["input_ids"] == expected.ids.tolist(), messages
        assert found["assistant_masks"] == expected.loss.astype(int).tolist(), messages
        prompt = applied(loaded, messages, add_generation_prompt=True)["input_ids"]
        assert prompt == render_prompt(messages, tokenizer), messages
        with_loss += expected.loss.any()
    assert with_loss > 50 and rejected > 20


@pytest.mark.parametrize("text", ["<|endoftext|>", *CHAT_SPECIALS])
def test_a_message_with_a_special_token_is_rejected_by_name(loaded, text):
    with pytest.raises(
        Exception, match=r"from the user contains the special token " + text.replace("|", r"\|")
    ):
        applied(loaded, [Message("user", f"a{text}b")])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "tool", "content": "a"}, "unknown role tool; the roles are user, assistant, system"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, "a message from the user is not text"),
        ({"role": "user", "content": None}, "a message from the user is not text"),
        ({"role": "user"}, "a message from the user is not text"),
    ],
)
def test_what_the_renderer_does_not_accept_is_rejected_by_name(loaded, message, reason):
    with pytest.raises(Exception, match=reason):
        loaded.apply_chat_template([message])


def test_other_special_tokens_are_quoted(tokenizer, tmp_path):
    texts = ["it's", "a\\n", "b\n", '""', "{{", "%}", "日"]
    specials = tokenizer.special_tokens | {text: tokenizer.vocab_size + i for i, text in enumerate(texts)}
    wider = tokenizer.with_ids(tokenizer.vocab, specials)
    loaded = hugging_face(wider, tmp_path)
    for text in texts:
        with pytest.raises(Exception) as error:
            applied(loaded, [Message("user", f"x{text}y")])
        assert str(error.value) == f"a message from the user contains the special token {text}"
    messages = [Message("user", "its \\ a\\ n b"), Message("assistant", "a n")]
    assert applied(loaded, messages)["input_ids"] == render(messages, wider).ids.tolist()


@pytest.mark.parametrize("text", ["a<|end|>", "<|user|>a", "a<|", "|>a", "x<|end|>y"])
def test_a_special_token_that_overlaps_is_rejected(tokenizer, text):
    wider = tokenizer.with_ids(tokenizer.vocab, tokenizer.special_tokens | {text: tokenizer.vocab_size})
    with pytest.raises(UserError, match="overlaps with"):
        chat_template(wider)


def test_a_tokenizer_without_chat_tokens_has_no_template(corpus):
    assert chat_template(Tokenizer.load(corpus.tokenizer)) is None
