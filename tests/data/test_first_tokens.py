"""The first tokens are held out: complete documents, no more than needed, for any shards; resumable."""

import json

import numpy as np
import pytest

from lmfast.data import prepare as module
from lmfast.data.prepare import PrepareOptions, prepare_files
from lmfast.data.stories.corpus import write_stories
from lmfast.data.token_file import open_tokens
from lmfast.errors import UserError
from lmfast.sharding.jobs import ExecutionOptions
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.training import train_bpe


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    write_stories(path, 30_000, seed=3)
    return path


@pytest.fixture(scope="module")
def tokenizer(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(text, 400, num_workers=1).save(folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def whole(text, tokenizer, tmp_path_factory):
    """(ids of all documents, where each document ends) without a validation part."""
    folder = tmp_path_factory.mktemp("whole")
    prepare_files(
        [text],
        tokenizer,
        folder / "out",
        PrepareOptions(val_fraction=0),
        options=ExecutionOptions(num_workers=1),
    )
    ids = np.load(folder / "out" / "train.npy")
    return ids, np.flatnonzero(ids == tokenizer.special_tokens["<|endoftext|>"]) + 1


@pytest.mark.parametrize("shard_bytes", [500, 5000, 1 << 20])
@pytest.mark.parametrize("which", ["first", "end", "past an end", "middle"])
def test_the_first_documents_are_held_out(text, tokenizer, whole, tmp_path, shard_bytes, which):
    ids, ends = whole
    tokens, cut = {
        "first": (1, ends[0]), "end": (ends[20], ends[20]), "past an end": (ends[20] + 1, ends[21]),
        "middle": (len(ids) // 2, ends[np.searchsorted(ends, len(ids) // 2)]),
    }[which]  # fmt: skip
    settings, options = (
        PrepareOptions(val_tokens=int(tokens)),
        ExecutionOptions(num_workers=1, shard_bytes=shard_bytes),
    )
    counts = prepare_files([text], tokenizer, tmp_path / "out", settings, options=options)
    valid, train = (open_tokens(tmp_path / "out" / f"{part}.npy") for part in ("valid", "train"))
    np.testing.assert_array_equal(valid.tokens, ids[:cut])
    np.testing.assert_array_equal(train.tokens, ids[cut:])
    for part, file, documents in (
        ("valid", valid, np.count_nonzero(ends <= cut)), ("train", train, np.count_nonzero(ends > cut)),
    ):  # fmt: skip
        size = len(tokenizer.decode_bytes(file.tokens))
        want = {"documents": documents, "tokens": len(file), "bytes": size}
        assert counts["parts"][part] == want and counts["sources"][str(text)][part] == want
        assert {name: file.summary[name] for name in want} == want
    messages = []
    prepare_files([text], tokenizer, tmp_path / "out", settings, options=options, report=messages.append)
    assert "reused" in messages[0]
    other = PrepareOptions(val_tokens=int(tokens) + 2000)
    prepare_files([text], tokenizer, tmp_path / "out", other, options=options, report=messages.append)
    assert len(messages) == 1 and len(np.load(tmp_path / "out" / "valid.npy")) >= tokens + 2000


def test_an_interrupted_call_resumes(text, tokenizer, whole, tmp_path, monkeypatch):
    settings, options = PrepareOptions(val_tokens=1000), ExecutionOptions(num_workers=1, shard_bytes=5000)
    with monkeypatch.context() as patch:
        patch.setattr(module, "join_ids", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare_files([text], tokenizer, tmp_path / "out", settings, options=options)
    monkeypatch.setattr(module, "encode_shard", None)  # every shard is done
    prepare_files([text], tokenizer, tmp_path / "out", settings, options=options)
    parts = [np.load(tmp_path / "out" / f"{part}.npy") for part in ("valid", "train")]
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])
    facts = json.loads((tmp_path / "out" / "token_counts.json").read_text())
    assert facts["parts"]["valid"]["tokens"] == len(parts[0])


def test_an_empty_training_part_is_rejected(text, tokenizer, whole, tmp_path):
    with pytest.raises(
        UserError, match=r"--val-tokens: the sources have only [\d,]+ tokens, which leaves none"
    ):
        prepare_files([text], tokenizer, tmp_path / "out", PrepareOptions(val_tokens=len(whole[0])))
    with pytest.raises(UserError, match="excludes --val-input"):
        prepare_files([text], tokenizer, tmp_path / "out", PrepareOptions(val_tokens=5), val_inputs=[text])
