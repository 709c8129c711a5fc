from types import SimpleNamespace

import pytest

from lmfast.data.chat import Rendered, add_chat_tokens, ending_ids, render
from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training import post_training


@pytest.fixture(scope="module")
def plain():
    return Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])


@pytest.fixture(scope="module")
def documents(plain) -> list[Rendered]:
    tokenizer = add_chat_tokens(plain)
    return [
        render([Message("user", "q" * asked), Message("assistant", "a" * answered)], tokenizer)
        for asked, answered in ((3, 3), (3, 40), (60, 3))
    ]


def test_truncation_is_reported_and_rows_without_loss_are_dropped(documents, capsys):
    kept = post_training.truncate_all(documents, 32, "data.json")
    assert [document is None for document in kept] == [False, False, True]
    assert kept[0].ids.tolist() == documents[0].ids.tolist() and len(kept[1].ids) < len(documents[1].ids)
    assert "1 answer truncated, 1 record skipped" in capsys.readouterr().out
    with pytest.raises(UserError, match="raise --context-length"):
        post_training.truncate_all(documents[2:], 32, "data.json")


def test_chat_tokens_are_added_to_a_base_once_and_only_if_allowed(plain, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match="has no tokenizer"):
        post_training.chat_tokenizer(run, may_add=True)
    plain.save(run / "tokenizer")
    with pytest.raises(UserError, match="lmfast sft"):
        post_training.chat_tokenizer(run)
    grown = post_training.chat_tokenizer(run, may_add=True)
    assert grown.vocab_size == plain.vocab_size + 4
    grown.save(run / "tokenizer")
    assert post_training.chat_tokenizer(run).special_tokens == grown.special_tokens


def test_a_stage_needs_a_run_to_start_from():
    with pytest.raises(UserError, match="--init-from"):
        post_training.base_checkpoint(None, "sft")


def test_skipped_records_are_reported_with_the_reason(capsys):
    post_training.report_skipped("data.json", {"has no answer": 3, "is no object": 1})
    assert "data.json: skipped 4 bad records (most common problem: has no answer)" in capsys.readouterr().out
    post_training.report_skipped("data.json", {})
    assert capsys.readouterr().out == ""


def test_records_are_split_by_hash_or_by_separate_files():
    files = {"train": [f"prompt {i // 2}" for i in range(20)], "valid": ["other"]}

    def read(path):
        return files[path], {}

    def get_prompt(record):
        return (Message("user", record),)

    data = SimpleNamespace(train_data_path="train", val_data_path=None, held_out=3)
    training, held, hashes = post_training.read_records(data, read, get_prompt)
    assert sorted(training + held) == sorted(files["train"]) and len(set(held)) == len(hashes) == 3
    assert not set(training) & set(held)  # both records of a prompt are on one side
    data.val_data_path = "valid"
    assert post_training.read_records(data, read, get_prompt) == (files["train"], ["other"], set())


def test_samples_end_where_the_runs_texts_end(plain):
    """At <|end|> and at <|endoftext|>, as in a chat with the run."""
    tokenizer, asked = add_chat_tokens(plain), []

    def generate(model, prompts, max_tokens, **options):
        asked.append(options["stop_ids"])
        return [[104, 105] for _ in prompts]

    model = SimpleNamespace(
        eval=lambda: None, restrict_to=lambda ids: None, config=SimpleNamespace(context_length=9)
    )
    sample = post_training.answer_sampler(tokenizer, [[Message("user", "ho")]], generate)
    assert sample(model, 1) == ("user: ho\nassistant: hi", {})
    assert asked == [ending_ids(tokenizer)]
