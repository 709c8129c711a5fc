"""Peers learn and encode what we do; a peer that differs is rejected."""

import numpy as np
import pytest

from bench import tokenizer_peers
from bench.tokenizer_peers import Disagreement, check_ids, check_learnt, documents, texts_between
from lmfast.data.stories.corpus import write_stories
from lmfast.tokenizer.special_tokens import DOCUMENT_END as END
from lmfast.tokenizer.training import train_bpe

TEXT = (f"The cat sat.\r\n The cat's mat, 12 cats!\n{END}\nThe dog\u2019s été. " * 60) + "the end"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture(scope="module")
def tokenizer(path):
    return train_bpe(path, 280, num_workers=1)


def test_documents_keep_every_byte(path):
    assert "".join(documents(path)) == TEXT
    assert END.join(texts_between(path)) == TEXT


@pytest.mark.parametrize("name", ["tiktoken", "tokenizers", "gigatoken"])
def test_encoders_give_our_ids(name, path, tokenizer, tmp_path):
    pytest.importorskip(name)
    tokenizer.encode_file(path, tmp_path / "ids.npy", 1)
    (peer,) = tokenizer_peers.encoding_peers(tokenizer, path, tmp_path, 1, {name})
    check_ids(name, peer.ids(peer.run()), np.load(tmp_path / "ids.npy"))


@pytest.fixture(scope="module")
def stories_path(tmp_path_factory):
    """Enough text that ties between pairs matter little."""
    path = tmp_path_factory.mktemp("peers") / "stories.txt"
    write_stories(path, 200_000, seed=1)
    return path


@pytest.mark.parametrize("name", ["tokenizers", "gigatoken", "rustbpe"])
def test_trainers_agree_with_ours(name, stories_path):
    pytest.importorskip(name)
    ours = train_bpe(stories_path, 500, num_workers=1)
    (peer,) = tokenizer_peers.training_peers(stories_path, 500, {name})
    size, count = peer.learnt(peer.run())
    assert size == ours.vocab_size == 500
    texts = texts_between(stories_path)
    assert count(texts) == pytest.approx(tokenizer_peers.our_count(ours)(texts), rel=0.01)


def test_different_ids_are_rejected():
    with pytest.raises(Disagreement, match="x: 3 ids, ours 3; they differ from id 1 on"):
        check_ids("x", np.array([1, 2, 3]), np.array([1, 5, 3]))
    with pytest.raises(Disagreement, match="differ from id 2 on"):
        check_ids("x", np.array([1, 2]), np.array([1, 2, 3]))


def test_a_different_vocabulary_is_rejected(path, tokenizer):
    ours = tokenizer_peers.our_count(tokenizer)
    for size, factor in ((281, 1.0), (280, 1.01)):
        learnt = (size, lambda texts, factor=factor: factor * ours(texts))
        peer = tokenizer_peers.TrainingPeer("x", lambda: None, lambda result, learnt=learnt: learnt)
        with pytest.raises(Disagreement):
            check_learnt(tokenizer, peer, None, path)
