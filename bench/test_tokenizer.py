"""The tokenizer compared with its peers: learning by phase, encoding by corpus, short strings, decoding, long pretokens.

All on the same text, in this process, with the same number of threads, round by round in turns. Before anything is
timed, results are compared: ids must be equal, what trainers learnt must agree (tokenizer_peers.py), and our merges of
a slice must be those of the plain oracle in tests/. Bytes are the text's; tokens are ids, of counting pretokens, of
merging merges, of training the ids that the learnt vocabulary makes of the text.
"""

import numpy as np
import pytest

from bench import corpora, tokenizer_peers
from bench.measuring import Work
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.counting import count_pretokens
from lmfast.tokenizer.merging import learn_merges
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.special_tokens import DOCUMENT_END as END
from lmfast.tokenizer.training import train_bpe
from tests.tokenizer import oracle

GPT2 = get_pattern("gpt2")
SIZES = {
    "quick": {"A": 4_000_000, "B": 3_000_000},
    "default": {"A": 30_000_000, "B": 20_000_000},
    "full": {"A": 300_000_000, "B": 200_000_000},
}
# With less text fewer merges: those of pairs that occur once or twice depend on how ties are broken.
VOCAB_SIZES = {
    "quick": {"A": 4_000, "B": 6_000},
    "default": {"A": 10_000, "B": 16_000},
    "full": {"A": 10_000, "B": 32_000},
}
SLOW = {"tokenizers", "rustbpe", "tiktoken"}  # minutes on the large corpora
ORACLE_BYTES, ORACLE_MERGES = 30_000, 300


@pytest.fixture(scope="session", params=["A", "B"])
def corpus(request, mode):
    return request.param, corpora.corpus(request.param, SIZES[mode][request.param])


@pytest.fixture(scope="session")
def tokenizers(mode, num_workers) -> dict[str, Tokenizer]:
    """A tokenizer learnt from each corpus."""
    return {
        name: train_bpe(corpora.corpus(name, SIZES[mode][name]), size, num_workers=num_workers)
        for name, size in VOCAB_SIZES[mode].items()
    }


@pytest.fixture(scope="session")
def counts(corpus, num_workers):
    return count_pretokens([corpus[1]], [END], GPT2, num_workers)


def peer_names(mode: str) -> set[str]:
    every = {"gigatoken", "tiktoken", "tokenizers", "rustbpe"}
    return every - SLOW if mode == "full" else every


def test_merges_equal_the_oracles(corpus, tmp_path):
    """Not timed: what is timed below is right."""
    with corpus[1].open("rb") as file:
        head = file.read(ORACLE_BYTES).decode("utf-8", "ignore").encode()
    (tmp_path / "head.txt").write_bytes(head)
    ours = train_bpe(tmp_path / "head.txt", 256 + 1 + ORACLE_MERGES, [END], num_workers=1).merges
    assert ours == oracle.learn_merges(oracle.count(head, [END.encode()], GPT2.regex), ORACLE_MERGES)


@pytest.mark.parametrize("workers", [1, 2, 6, 10])
def test_count(corpus, counts, workers, measure):
    path = corpus[1]
    work = Work(tokens=int(counts.counts.sum()), bytes=path.stat().st_size)
    measure(lambda: count_pretokens([path], [END], GPT2, workers), work)


def test_merge(corpus, counts, mode, measure):
    """From counts to merges."""
    wanted = VOCAB_SIZES[mode][corpus[0]] - 257
    measure(lambda: learn_merges(counts, wanted), Work(tokens=wanted, bytes=counts.total_bytes))


def test_train(corpus, mode, num_workers, scratch, measure):
    """The whole call, compared with whole calls of other trainers."""
    name, path = corpus
    size = VOCAB_SIZES[mode][name]
    ours = train_bpe(path, size, num_workers=num_workers)
    tokens = ours.encode_file(path, scratch / "ids.npy", num_workers).tokens
    peers = tokenizer_peers.training_peers(path, size, peer_names(mode))
    for peer in peers:
        tokenizer_peers.check_learnt(ours, peer, peer.run(), corpora.held_out(name))
    measure(
        lambda: train_bpe(path, size, num_workers=num_workers),
        Work(tokens=tokens, bytes=path.stat().st_size),
        {peer.name: peer.run for peer in peers},
    )


def test_encode(corpus, tokenizers, mode, num_workers, scratch, measure):
    """A file to a new .npy, that of the round before deleted beforehand; the peers leave their ids in memory."""
    name, path = corpus
    tokenizer, target = tokenizers[name], scratch / "ids.npy"
    tokens = tokenizer.encode_file(path, target, num_workers).tokens
    ids = np.load(target, mmap_mode="r")
    peers = tokenizer_peers.encoding_peers(tokenizer, path, scratch, num_workers, peer_names(mode))
    for peer in peers:
        tokenizer_peers.check_ids(peer.name, peer.ids(peer.run()), ids)
    measure(
        lambda: tokenizer.encode_file(path, target, num_workers),
        Work(bytes=path.stat().st_size, tokens=tokens),
        {peer.name: peer.run for peer in peers},
        before=lambda: target.unlink(missing_ok=True),
    )


def strings_of_1kb(name: str, number: int = 1000) -> list[str]:
    """Text in strings of about 1 kB, cut between characters."""
    text = corpora.held_out(name).read_bytes().decode().replace(END, "")
    return [text[1000 * i : 1000 * (i + 1)] for i in range(min(number, len(text) // 1000))]


def test_encode_1kb_strings(corpus, tokenizers, measure):
    """One at a time, `encode_array`."""
    name, _ = corpus
    tokenizer, texts = tokenizers[name], strings_of_1kb(name)
    peers, tokens = {}, sum(len(tokenizer.encode_array(text)) for text in texts)
    if tokenizer_peers.installed("tiktoken"):
        theirs = tokenizer_peers.tiktoken_encoding(tokenizer)
        for text in texts:
            assert theirs.encode_ordinary(text) == tokenizer.encode_array(text).tolist()
        peers["tiktoken"] = lambda: [theirs.encode_ordinary(text) for text in texts]
    measure(
        lambda: [tokenizer.encode_array(text) for text in texts],
        Work(bytes=sum(len(text.encode()) for text in texts), tokens=tokens),
        peers,
    )


def test_decode(corpus, tokenizers, measure):
    """An array of ids to a str; tiktoken takes a list, which is made beforehand."""
    name, _ = corpus
    tokenizer = tokenizers[name]
    text = corpora.held_out(name).read_bytes().decode()
    ids = tokenizer.encode_array(text)
    assert tokenizer.decode(ids) == text
    peers, as_list = {}, ids.tolist()
    if tokenizer_peers.installed("tiktoken"):
        theirs = tokenizer_peers.tiktoken_encoding(tokenizer)
        assert theirs.decode(as_list) == text
        peers["tiktoken"] = lambda: theirs.decode(as_list)
    measure(lambda: tokenizer.decode(ids), Work(bytes=len(text.encode()), tokens=len(ids)), peers)


@pytest.mark.parametrize("megabytes", [1, 4])
def test_encode_one_pretoken(tokenizers, megabytes, measure):
    """A run of one letter: four times the length should take four times as long."""
    text = b"x" * (megabytes * 1_000_000)
    tokenizer = tokenizers["A"]
    tokens = len(tokenizer.encode_array(text))
    measure(lambda: tokenizer.encode_array(text), Work(bytes=len(text), tokens=tokens))
