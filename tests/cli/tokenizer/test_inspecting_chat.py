"""inspecting_chat.py: conversations and preferences are shown as they are trained on, with their mask."""

import json

import pytest

from lmfast.cli.tokenizer.inspecting_chat import record_kind, with_chat_tokens
from lmfast.tokenizer.__main__ import main
from lmfast.tokenizer.bpe import Tokenizer

VOCAB = {i: bytes([i]) for i in range(256)}
ALPACA = [{"instruction": f"q{i}", "input": "", "output": "a"} for i in range(3)]
MESSAGES = {"messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "<|end|>"}]}
PREFERENCE = {"prompt": "q", "chosen": "y", "rejected": "n"}
PROMPT = "⟦<|endoftext|>⟧│⟦<|user|>⟧│q{}⟦<|end|>⟧│⟦<|assistant|>⟧│"


@pytest.fixture
def printed(tmp_path, capsys):
    """What inspect prints for records, which are first written to a file with the given name."""
    Tokenizer(VOCAB, [], ["<|endoftext|>"]).save(tmp_path / "tok")

    def run(records, more: str = "", name: str = "r.jsonl") -> tuple[str, str]:
        text = (
            json.dumps(records) if name.endswith(".json") else "".join(json.dumps(r) + "\n" for r in records)
        )
        (tmp_path / name).write_text(text)
        main(f"inspect --input {tmp_path}/{name} --tokenizer {tmp_path}/tok {more}".split())
        return capsys.readouterr()

    return run


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_conversations(printed, name):
    shown = printed(ALPACA, "--document 1", name).out
    assert shown.startswith(PROMPT.format("│1│") + "▶a│⟦<|end|>⟧◀\n")
    assert "2 of 8 tokens carry loss (between ▶ and ◀)" in shown
    assert "decoding restores the source: yes" in shown
    assert printed(ALPACA, "--documents 9", name).out.count("── record ") == 3


def test_messages_that_spell_special_tokens(printed):
    shown = printed([MESSAGES]).out
    assert "▶<│|│e│n│d│|│>│⟦<|end|>⟧◀" in shown and "h│\\xc3\\xa9" not in shown
    assert "decoding restores the source: yes" in shown


def test_preferences_show_both_answers(printed):
    shown = printed([PREFERENCE]).out
    assert "── record 0 chosen ──\n" + PROMPT.format("│") + "▶y│⟦<|end|>⟧◀" in shown
    assert "── record 0 rejected ──\n" + PROMPT.format("│") + "▶n│⟦<|end|>⟧◀" in shown


def test_colours_and_page(printed, tmp_path):
    shown = printed([PREFERENCE], "--color always").out
    assert (
        "\x1b[2;90mq\x1b[0m" in shown and "\x1b[2;1;31m<|user|>" in shown and "\x1b[1;97;41m<|end|>" in shown
    )
    printed(ALPACA, f"--html {tmp_path}/p.html")
    page = (tmp_path / "p.html").read_text()
    assert page.count("<section") == 3 and '<b class="n"' in page and "<li>2 tokens carry loss</li>" in page


def test_complete_files_are_verified(printed, tmp_path):
    assert printed(ALPACA, "--verify").out == (
        f"{tmp_path}/r.jsonl: decoding restores the source: yes; 6 of 24 tokens carry loss\n"
    )
    assert "; 4 of 14 tokens carry loss" in printed([PREFERENCE], "--verify").out


def test_bad_records_are_rejected_or_skipped(printed, capsys, tmp_path):
    bad = [*ALPACA, {"instruction": "q", "output": ""}]
    with pytest.raises(SystemExit) as caught:
        printed(bad)
    error = capsys.readouterr().err
    assert (
        caught.value.code == 2 and "r.jsonl: line 4 has an empty output" in error and error.count("\n") == 1
    )
    shown = printed(bad, "--skip-bad --documents 9")
    assert shown.out.count("── record ") == 3 and "skipped 1 record that has an empty output" in shown.err
    assert "24 tokens carry loss" in printed(bad, "--skip-bad --verify").out
    with pytest.raises(SystemExit):
        printed(ALPACA, "--document 3")
    assert "r.jsonl: has 3 records; --document 3 must be below 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (json.dumps(ALPACA), "conversations"),
        ("\n" + json.dumps(ALPACA[0]) + "\n", "conversations"),
        (json.dumps([PREFERENCE]), "preferences"),
        (json.dumps({"conversations": []}), "conversations"),
        (json.dumps({"text": "plain", "instruction": "x"}), None),
        (json.dumps({"body": "plain"}), None),
        ("[]", None),
        ("{", None),
        ("", None),
    ],
)
def test_kinds(tmp_path, text, kind):
    for name in ("r.json", "r.jsonl"):
        (tmp_path / name).write_text(text)
        assert record_kind(f"{tmp_path}/{name}", "text") == kind
    (tmp_path / "r.txt").write_text(text)
    assert record_kind(f"{tmp_path}/r.txt", "text") is None
    assert record_kind(f"{tmp_path}/none.json", "text") is None


def test_a_tokenizer_with_chat_tokens_is_unchanged():
    bare = Tokenizer(VOCAB, [], ["<|endoftext|>"])
    chat = with_chat_tokens(bare)
    assert chat.vocab_size == bare.vocab_size + 4 and with_chat_tokens(chat) is chat
