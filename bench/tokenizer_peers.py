"""The other tokenizers, each doing the same work on the same data with the same number of threads.

In: our tokenizer, whose vocabulary they get, or a text to learn from. Out: functions that encode a text, for timing,
and that give ids as an array, for comparing; or a vocabulary. A peer that is not installed is omitted.

Outputs are compared before anything is timed: ids must be equal; of a trainer, which breaks ties otherwise, the
vocabulary's size and the tokens of a held-out text.

What each does when it encodes: gigatoken `encode_files` (the file mapped in Rust, ids left in memory; ours writes a
.npy), tiktoken `encode_batch` over documents (text decoded and split beforehand, which is not timed), tokenizers
`encode_batch_fast` over the same documents.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.timing import quiet
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.special_tokens import DOCUMENT_END as END

GPT2 = get_pattern("gpt2").regex


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def set_threads(num_threads: int) -> None:
    """Threads of the peers written in Rust; they read it when they first use them."""
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"


@dataclass(frozen=True)
class EncodingPeer:
    """run() encodes the whole text and returns whatever the package returns; ids() makes one array of that."""

    name: str
    run: Callable[[], object]
    ids: Callable[[object], np.ndarray]


def documents(path: Path) -> list[str]:
    """A text split after each <|endoftext|>."""
    pieces = path.read_bytes().decode().split(END)
    whole = [piece + END for piece in pieces[:-1]]
    return [*whole, pieces[-1]] if pieces[-1] else whole


def tiktoken_encoding(tokenizer: Tokenizer):
    """Our vocabulary in tiktoken."""
    import tiktoken

    special = set(tokenizer.special_tokens.values())
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special}
    return tiktoken.Encoding(
        "ours",
        pat_str=tokenizer.pattern.regex,
        mergeable_ranks=ranks,
        special_tokens=tokenizer.special_tokens,
    )


def flat(lists) -> np.ndarray:
    return np.fromiter((i for ids in lists for i in ids), np.int64)


def gigatoken_peer(tokenizer: Tokenizer, path: Path, folder: Path) -> EncodingPeer:
    import awkward
    from gigatoken.gigatoken_rs import BPETokenizer, TextFileSource

    ranks = folder / "ours.tiktoken"
    tokenizer.save(ranks)
    theirs = BPETokenizer.from_tiktoken(str(ranks), "gpt2", tokenizer.special_tokens)
    source = TextFileSource([str(path)], separator=None)
    return EncodingPeer(
        "gigatoken", lambda: theirs.encode_files(source), lambda out: np.asarray(awkward.flatten(out))
    )


def tiktoken_peer(tokenizer: Tokenizer, texts: list[str], num_threads: int) -> EncodingPeer:
    theirs = tiktoken_encoding(tokenizer)
    return EncodingPeer(
        "tiktoken", lambda: theirs.encode_batch(texts, num_threads=num_threads, allowed_special="all"), flat
    )


def tokenizers_peer(tokenizer: Tokenizer, texts: list[str], folder: Path) -> EncodingPeer:
    import tokenizers

    tokenizer.save(folder / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return EncodingPeer(
        "tokenizers", lambda: theirs.encode_batch_fast(texts), lambda out: flat(item.ids for item in out)
    )


def encoding_peers(
    tokenizer: Tokenizer, path: Path, folder: Path, num_threads: int, names: set[str] | None = None
) -> list[EncodingPeer]:
    """Those of `names` that are installed, ready to encode `path` with our vocabulary."""
    wanted = {name for name in ("gigatoken", "tiktoken", "tokenizers") if installed(name)}
    wanted &= names or wanted
    texts = documents(path) if wanted & {"tiktoken", "tokenizers"} else []
    make = {
        "gigatoken": lambda: gigatoken_peer(tokenizer, path, folder),
        "tiktoken": lambda: tiktoken_peer(tokenizer, texts, num_threads),
        "tokenizers": lambda: tokenizers_peer(tokenizer, texts, folder),
    }
    return [make[name]() for name in sorted(wanted)]


# Training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingPeer:
    """run() learns and returns whatever the package returns; learnt() makes of that (vocabulary size with the
    special token, how many tokens it makes of texts without special tokens)."""

    name: str
    run: Callable[[], object]
    learnt: Callable[[object], tuple[int, Callable[[list[str]], int]]]


def texts_between(path: Path) -> list[str]:
    """A text without its <|endoftext|>."""
    return [text for text in path.read_bytes().decode().split(END) if text]


def our_count(tokenizer: Tokenizer) -> Callable[[list[str]], int]:
    return lambda texts: sum(len(tokenizer.encode_array(text)) for text in texts)


def gigatoken_trainer(path: Path, vocab_size: int) -> TrainingPeer:
    import gigatoken
    from gigatoken.gigatoken_rs import TextFileSource

    source = TextFileSource([str(path)], separator=None)

    def run():
        with quiet():
            return gigatoken.train_bpe(source, vocab_size, [END])

    def learnt(result):
        vocab, merges = result
        return len(vocab), our_count(Tokenizer(vocab, merges, [END]))

    return TrainingPeer("gigatoken", run, learnt)


def tokenizers_trainer(path: Path, vocab_size: int) -> TrainingPeer:
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    texts = texts_between(path)  # its own reader of files cuts them into lines, which gives other pretokens

    def run():
        theirs = tokenizers.Tokenizer(models.BPE())
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        theirs.train_from_iterator(texts, trainer)
        return theirs

    def learnt(theirs):
        def count(texts):
            return sum(len(item.ids) for item in theirs.encode_batch_fast(texts))

        return theirs.get_vocab_size(), count

    return TrainingPeer("tokenizers", run, learnt)


def rustbpe_trainer(path: Path, vocab_size: int) -> TrainingPeer:
    import rustbpe

    texts = texts_between(path)  # it knows no special tokens, so documents are cut beforehand

    def run():
        theirs = rustbpe.Tokenizer()
        theirs.train_from_iterator(iter(texts), vocab_size - 1, pattern=GPT2)
        return theirs

    def learnt(theirs):
        return theirs.vocab_size + 1, lambda texts: sum(map(len, theirs.batch_encode(texts)))

    return TrainingPeer("rustbpe", run, learnt)


TRAINERS = {"gigatoken": gigatoken_trainer, "tokenizers": tokenizers_trainer, "rustbpe": rustbpe_trainer}


def training_peers(path: Path, vocab_size: int, names: set[str] | None = None) -> list[TrainingPeer]:
    """Those of `names` that are installed, ready to learn from `path`."""
    wanted = {name for name in TRAINERS if installed(name)} & (names or set(TRAINERS))
    return [TRAINERS[name](path, vocab_size) for name in sorted(wanted)]


class Disagreement(AssertionError):
    """A peer's result differs, so a comparison of times would mean nothing."""


TOLERANCE = 1e-3  # of a held-out text's tokens: ties between pairs are broken differently


def check_learnt(tokenizer: Tokenizer, peer: TrainingPeer, result: object, held_out: Path) -> float:
    """Vocabulary sizes equal, tokens of a held-out text within 0.1 %; returns their tokens / ours - 1."""
    size, count = peer.learnt(result)
    texts = texts_between(held_out)
    theirs, ours = count(texts), our_count(tokenizer)(texts)
    if size != tokenizer.vocab_size or abs(theirs / ours - 1) > TOLERANCE:
        raise Disagreement(
            f"{peer.name}: {size} entries and {theirs} tokens of {held_out.name}; ours {tokenizer.vocab_size} and {ours}"
        )
    return theirs / ours - 1


def check_ids(name: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    """Ids must be the same, all of them."""
    if len(theirs) != len(ours) or not np.array_equal(theirs, ours):
        same = min(len(theirs), len(ours))
        first = next(iter(np.flatnonzero(np.asarray(theirs[:same]) != ours[:same])), same)
        raise Disagreement(f"{name}: {len(theirs)} ids, ours {len(ours)}; they differ from id {first} on")
