import contextlib
import io
import itertools
import random
from pathlib import Path

import pytest

from lmfast.cli.opening import OpenRun
from lmfast.data.chat import add_chat_tokens, render, render_prompt
from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.inference.chat import Chat, fit_prompt
from lmfast.model.config import ModelConfig
from lmfast.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    vocab = {i: bytes([i]) for i in range(256)}
    return add_chat_tokens(Tokenizer(vocab, [], ["<|endoftext|>"]))


class Parrot:
    """A fake model: answers with the given words whatever the prompt, and records its prompts."""

    def __init__(self, tokenizer, words: str, context_length: int = 64):
        self.config = ModelConfig(vocab_size=tokenizer.vocab_size, context_length=context_length)
        self.words, self.prompts = tokenizer.encode(words), []

    def stream(self, model, prompts, max_tokens, sampling, *, stop_ids, **_):
        self.prompts.append(prompts[0])
        words = itertools.takewhile(lambda token: token not in stop_ids, self.words[:max_tokens])
        yield from ([token] for token in words)


@pytest.fixture
def talk_with(tokenizer, monkeypatch):
    def make(words: str, context_length: int = 64, **options):
        parrot = Parrot(tokenizer, words, context_length)
        monkeypatch.setattr("lmfast.inference.chat.stream", parrot.stream)
        return Chat(parrot, tokenizer, **options), parrot

    return make


@pytest.mark.parametrize("stop", ["<|end|>", "<|endoftext|>"])
def test_an_answer_streams_and_stops_and_the_history_goes_into_the_next_prompt(talk_with, tokenizer, stop):
    talk, parrot = talk_with(f"né{stop}never", system="s", max_tokens=8)
    assert list(talk.say("hi")) == ["n", "é"]  # never half a character
    assert list(talk.say("ho")) == ["n", "é"]
    assert tokenizer.decode(parrot.prompts[1]) == (
        "<|endoftext|><|system|>s<|end|><|user|>hi<|end|><|assistant|>né<|end|><|user|>ho<|end|><|assistant|>"
    )
    assert talk.history[-1] == Message("assistant", "né")


def test_max_tokens_end_an_answer(talk_with):
    talk, _ = talk_with("abcdef", max_tokens=3)
    assert "".join(talk.say("hi")) == "abc"


def test_the_oldest_turns_are_dropped_and_the_system_message_is_kept(talk_with, tokenizer):
    talk, parrot = talk_with("yes<|end|>", context_length=40, system="s", max_tokens=8)
    for text in ("first", "second", "third"):
        "".join(talk.say(text))
    last = tokenizer.decode(parrot.prompts[-1])
    assert "<|system|>s<|end|>" in last and "first" not in last and "third" in last
    assert talk.forgotten == 2 and len(parrot.prompts[-1]) <= 32


def naive_fit(messages, tokenizer, limit):
    messages = list(messages)
    first, before = int(messages[0].role == "system"), len(messages)
    while len(ids := render_prompt(messages, tokenizer)) > limit:
        if len(messages) - first == 1:
            return None
        del messages[first : first + 1 + (messages[first + 1].role == "assistant")]
    return ids, messages, before - len(messages)


def test_fitted_prompts_are_those_of_dropping_turn_by_turn(tokenizer):
    generator = random.Random(1)
    for _ in range(300):
        roles = ["system"] * generator.randrange(2) + generator.choices(
            ["user", "assistant"], k=generator.randrange(8)
        )
        messages = [Message(role, "ab " * generator.randrange(5)) for role in [*roles, "user"]]
        context, max_tokens = generator.randrange(4, 60), generator.randrange(1, 60)
        expected = naive_fit(messages, tokenizer, context - min(max_tokens, context // 2))
        if expected is None:
            with pytest.raises(UserError, match="leaves no space"):
                fit_prompt(messages, tokenizer, context, max_tokens)
        else:
            assert fit_prompt(messages, tokenizer, context, max_tokens) == expected


def test_only_the_end_of_a_long_history_is_encoded(tokenizer, monkeypatch):
    encoded = []
    monkeypatch.setattr("lmfast.inference.chat.render", lambda *args: encoded.append(1) or render(*args))
    fitted = fit_prompt([Message("user", "a")] * 10_000, tokenizer, 40, 10)
    assert fitted.dropped > 9_980 and len(encoded) < 30


def test_a_message_longer_than_the_context_is_rejected_and_dropped(talk_with):
    talk, _ = talk_with("yes<|end|>", context_length=20, max_tokens=8)
    with pytest.raises(UserError, match="leaves no space for an answer in a context of 20"):
        "".join(talk.say("x" * 30))
    assert talk.history == []
    "".join(talk.say("hi"))
    before = list(talk.history)
    with pytest.raises(UserError):
        "".join(talk.say("x" * 30))
    assert talk.history == before and talk.forgotten == 0  # nothing was dropped


def test_an_interrupted_answer_keeps_its_text(talk_with, tokenizer):
    talk, parrot = talk_with("abcdef<|end|>")
    answer = talk.say("hi")
    assert next(answer) + next(answer) == "ab"
    answer.close()
    "".join(talk.say("ho"))
    assert "<|assistant|>ab<|end|><|user|>ho<|end|>" in tokenizer.decode(parrot.prompts[-1])


def test_a_model_without_chat_training_is_rejected(corpus):
    with pytest.raises(UserError, match="is not a chat model"):
        Chat(None, Tokenizer.load(corpus.tokenizer))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(tokenizer, monkeypatch):
    """`generate --chat` with typed input; returns the parrot that answered."""
    from lmfast.generate import main

    def run(stdin, words: str = "yes<|end|>", stream=None) -> Parrot:
        parrot = Parrot(tokenizer, words)
        monkeypatch.setattr("lmfast.inference.chat.stream", stream(parrot) if stream else parrot.stream)
        opened = OpenRun(Path("any"), parrot, tokenizer, "cpu", {}, contextlib.nullcontext())
        monkeypatch.setattr("lmfast.cli.generating.open_run", lambda *_: opened)
        monkeypatch.setattr("sys.stdin", stdin)
        main(["--checkpoint", "any", "--chat", "--device", "cpu"])
        return parrot

    return run


def interrupted_once(parrot):
    """A parrot whose first answer is interrupted by Ctrl-C after two tokens."""

    def stream(*arguments, **options):
        for number, token in enumerate(parrot.stream(*arguments, **options)):
            if number == 2 and len(parrot.prompts) == 1:
                raise KeyboardInterrupt
            yield token

    return stream


def test_control_c_ends_an_answer_on_a_terminal(typed, tokenizer, capsys):
    parrot = typed(Terminal("one\ntwo\n"), "yes<|end|>", interrupted_once)
    assert capsys.readouterr().out == "ye\nyes\n"
    assert "<|assistant|>ye<|end|><|user|>two<|end|>" in tokenizer.decode(parrot.prompts[-1])
    with pytest.raises(SystemExit) as caught:  # without one it ends the command, as everywhere
        typed(io.StringIO("one\ntwo\n"), "yes<|end|>", interrupted_once)
    assert caught.value.code == 130


def test_bytes_that_are_not_text_are_rejected(typed, capsys):
    with pytest.raises(SystemExit) as caught:  # as Python passes them in a C locale
        typed(io.StringIO("hi \udcff\n"))
    assert caught.value.code == 2 and capsys.readouterr().err.endswith(
        "standard input: not UTF-8 text; convert it first\n"
    )


def test_turns_come_from_standard_input(typed, tokenizer, capsys):
    parrot = typed(io.StringIO("one\n\ntwo\n/reset\nthree\n/exit\nfour\n"))
    assert capsys.readouterr().out == "yes\nyes\nyes\n"
    assert [tokenizer.decode(prompt).count("<|user|>") for prompt in parrot.prompts] == [1, 2, 1]


def test_a_long_line_is_skipped_and_the_others_are_answered(typed, tokenizer, capsys):
    """From a pipe the answer is an empty line and the command fails at the end; on a terminal it does not."""
    text = f"one\n{'x' * 60}\ntwo\n"
    with pytest.raises(SystemExit) as caught:
        typed(io.StringIO(text))
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == "yes\n\nyes\n"
    long, summary = captured.err.splitlines()
    assert long.startswith("error: line 2: a message of 6") and "no space for an answer" in long
    assert summary == "error: standard input: skipped 1 of 3 lines; shorten them"
    parrot = typed(Terminal(text))
    assert capsys.readouterr().out == "yes\nyes\n" and len(parrot.prompts) == 2


def test_a_closed_standard_input_is_one_line(typed, capsys):
    with pytest.raises(SystemExit):
        typed(None)
    assert capsys.readouterr().err.startswith("error: standard input is closed")


@pytest.mark.parametrize("extra", [["--chat", "--prompt", "x"], ["--system", "x"]])
def test_incompatible_flags_are_rejected(extra, capsys):
    from lmfast.generate import main

    with pytest.raises(SystemExit):
        main(extra)
    assert capsys.readouterr().err.count("\n") == 1
