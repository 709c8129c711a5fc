"""Compares GGUF files with llama.cpp: `python -m bench.llama_cpp_parity [--base RUN] [--chat RUN] [--texts FILE …]`.

- Random models of several shapes, and a trained one (--base): the same 200 greedy ids from the float32 file, and the
  largest difference of a log-probability. Quantized files of the trained one: perplexity on its validation tokens.
- Tokenizers of every split that can be exported: the same ids on hard input and real text (--texts, UTF-8), and for every
  character next to letters, digits, spaces and itself.
- A chat-tuned run (--chat): the same ids of rendered conversations and of greedy answers.

Needs the packages gguf and xllamacpp. Out: the table, and bench/results/llama_cpp_parity_<cpu>.json.
"""

import itertools
import math
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from bench.llama_cpp import LlamaCpp
from bench.results import Row
from bench.target_table import measure, parser_of
from lmfast import ModelConfig, Tokenizer, TransformerLM, load_run, train_bpe
from lmfast.data.chat import add_chat_tokens, ending_ids, render_prompt
from lmfast.data.chat_records import Message
from lmfast.data.token_file import open_tokens
from lmfast.interop.gguf import Quantize, write_gguf
from lmfast.interop.gguf_vocabulary import PRE_TOKENIZERS
from lmfast.settings import TrainSettings
from lmfast.training.checkpoint import find_checkpoint
from lmfast.training.resume import saved_settings

NEW = 200  # greedy ids
QUANTIZED: dict[Quantize, float] = {"f16": 1e-3, "bf16": 5e-3, "q8_0": 5e-3}
"""largest relative difference of perplexity that is accepted"""
SHAPE = ModelConfig(512, 256, d_model=256, num_layers=3, d_ff=704)
SHAPES = {
    "head_dim 32, MHA, untied": replace(SHAPE, num_heads=8),
    "head_dim 32, GQA, tied": replace(SHAPE, num_heads=8, num_kv_heads=2, tie_embeddings=True),
    "head_dim 64, GQA, untied": replace(SHAPE, num_heads=4, num_kv_heads=2),
    "head_dim 64, MQA, tied, rope_theta 500,000": replace(
        SHAPE, num_heads=4, num_kv_heads=1, tie_embeddings=True, rope_theta=5e5
    ),
    "head_dim 128, MHA, tied": replace(SHAPE, num_heads=2, tie_embeddings=True),
    "head_dim 128, GQA, untied": replace(SHAPE, num_heads=2, num_kv_heads=1),
    "head_dim 64, GQA, qk_norm, untied": replace(SHAPE, num_heads=4, num_kv_heads=2, qk_norm=True),
    "head_dim 32, GQA, qk_norm, tied": replace(
        SHAPE, num_heads=8, num_kv_heads=4, qk_norm=True, tie_embeddings=True
    ),
    "head_dim 80, GQA, biases, norm_eps 1e-6": replace(
        SHAPE, num_heads=4, num_kv_heads=2, head_dim=80, qkv_bias=True, norm_eps=1e-6
    ),
    "head_dim 64, qk_norm, biases": replace(SHAPE, num_heads=4, qk_norm=True, qkv_bias=True),
    "head_dim 64, GQA, rope_factor 8": replace(
        SHAPE, num_heads=4, num_kv_heads=2, rope_factor=8.0, rope_original_context=64
    ),
}
HARD = [
    *[" ", "\n", "\n" * 10_000, "x" * 1_000_000, "'s" * 10_000, "today\n \n", "today\n ", "a \n\n  b", "  ", "\r\n\r\n "],
    *["a\u0085b", "a\u00a0b", "a\u2003b", "a\u001cb", "'ſ", "they'LL", "THEY'll we'RE I'd", "aaaaa", "1234567", "१२३४"],
    *["<|endoftext|><|endoftext|>", "<|endoftext|>a<|end", "<|end|><|endoftext|>|>", "<|endof", "\u0301a", "e\u0301"],
    *["x" * 15, "x" * 16, "x" * 17, "x" * 65_535, "x" * 65_536, "a\r\nb\r\n", "\x00\x7f", "日本語🙂\u200d🙂"],
]  # fmt: skip


AROUND = ["aca\t\t", "1c1\t\t", "!c\t\t", " c\t\t", "cc\t\t", "c\n\t\t", "\nc \t\t", "'c\t\t"]
"""where c is a code point"""
POINTS = [*range(0x40000), *range(0xE0000, 0xE1000)]
"""the code points of all planes that have characters, but for private ones"""


def random_model(config: ModelConfig) -> TransformerLM:
    """A model whose norms differ from 1, biases from 0, and whose residual stream has two outliers."""
    torch.manual_seed(0)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                weight.normal_()
        model.embedding.weight[:, :2] *= 10
    return model


def bytes_tokenizer() -> Tokenizer:
    """Bytes, a few merges and special tokens."""
    pairs = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b"i", b"n"), (b"in", b"g")]
    vocab = dict(enumerate([bytes([i]) for i in range(256)] + [a + b for a, b in pairs]))
    return add_chat_tokens(Tokenizer(vocab, pairs, ["<|endoftext|>"]))


def opened(folder: Path, model: TransformerLM, tokenizer: Tokenizer, quantize: Quantize = "f32") -> LlamaCpp:
    path = folder / "model.gguf"
    path.unlink(missing_ok=True)
    write_gguf(path, model, tokenizer, quantize)
    return LlamaCpp(path, model.config.context_length)


def greedy(peer: LlamaCpp, prompt: list[int]) -> list[int]:
    """NEW ids, also past those that end a text."""
    ids: list[int] = []
    while len(ids) < NEW:
        ids += peer.greedy(prompt + ids, NEW - len(ids))
    return ids


@torch.inference_mode()
def log_probabilities(model: TransformerLM, ids: list[int], vocab_size: int) -> torch.Tensor:
    """(length, vocab_size): of each id to follow each prefix."""
    return torch.log_softmax(model(torch.tensor([ids]))[0, :, :vocab_size], -1)


def same_ids(
    name: str, model: TransformerLM, tokenizer: Tokenizer, peer: LlamaCpp, prompts: list[str]
) -> Row:
    differences, wrong = [], ""
    for text in prompts:
        prompt = tokenizer.encode(text)
        ours, theirs = model.generate(prompt, NEW, temperature=0.0), greedy(peer, prompt)
        if ours != theirs:
            same = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
            wrong = f"id {same} after {text!r} is {theirs[same]}, not {ours[same]}"
        prefix = prompt + ours[: NEW - 1]
        expected = log_probabilities(model, prefix, tokenizer.vocab_size)[-1]
        found = torch.tensor(peer.log_probabilities(prefix, tokenizer.vocab_size))
        differences.append(float((expected - found).abs().max()))
    shown = f"{len(prompts)} x {NEW} ids, largest difference of a log-probability {max(differences):.1e}"
    return Row(f"f32, {name}", max(differences), shown, must=1e-4, at_most=True, wrong=wrong)


def shape_rows(folder: Path) -> Iterator[Row]:
    tokenizer = bytes_tokenizer()
    for name, config in SHAPES.items():
        model = random_model(config)
        model.restrict_to(tokenizer.vocab)
        peer = opened(folder, model, tokenizer)
        yield same_ids(name, model, tokenizer, peer, ["<|endoftext|>the thing", "<|user|>a<|end|>", "\n"])


def trained_rows(folder: Path, run: Path) -> Iterator[Row]:
    model, tokenizer, config = load_run(run)
    assert tokenizer is not None
    prompts = [
        "<|endoftext|>",
        "<|endoftext|>Once upon a time",
        "<|endoftext|>One day, a small fox",
        "The end.",
    ]
    yield same_ids("trained", model, tokenizer, opened(folder, model, tokenizer), prompts)
    source = saved_settings(find_checkpoint(run).run, TrainSettings).data.val_data_path
    assert source is not None
    ids = open_tokens(Path(source), config.vocab_size).tokens[: config.context_length - 1].tolist()
    ours = log_probabilities(model, ids, tokenizer.vocab_size)
    before = range(1, len(ids))
    loss = -np.mean([float(ours[i - 1, ids[i]]) for i in before])
    for quantize, must in QUANTIZED.items():
        peer = opened(folder, model, tokenizer, quantize)
        theirs = [torch.tensor(peer.log_probabilities(ids[:i], tokenizer.vocab_size)) for i in before]
        change = math.exp(-np.mean([float(logs[ids[i]]) for i, logs in zip(before, theirs)]) - loss) - 1
        mean = np.mean([float((logs - ours[i - 1]).abs().mean()) for i, logs in zip(before, theirs)])
        prompt = tokenizer.encode(prompts[1])
        pairs = zip(greedy(peer, prompt), model.generate(prompt, NEW, temperature=0.0), strict=True)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        shown = (
            f"perplexity {math.exp(loss):.4f}, {change:+.2%} on {len(ids) - 1} tokens; mean difference of a log-probability "
            f"{mean:.1e}; first {same} of {NEW} greedy ids equal"
        )
        yield Row(f"{quantize}, trained", abs(change), shown, must=must, at_most=True, data={"mean": mean})


def pieces(text: str, length: int = 20_000) -> Iterator[str]:
    return (text[i : i + length] for i in range(0, len(text), length))


def tokenizer_rows(folder: Path, texts: list[Path]) -> Iterator[Row]:
    for pattern, whole in PRE_TOKENIZERS:
        name = f"tokens, {pattern}{', ignore_merges' * whole}"
        trained = train_bpe(texts, 8000, pattern=pattern) if texts else bytes_tokenizer()
        # With ignore_merges, words that no merge makes: ids then depend on it.
        words = [f" {word}" for word in ("zyxq", "Universal Declaration", "qqq")] * whole
        vocab = trained.vocab | {trained.vocab_size + i: word.encode() for i, word in enumerate(words)}
        special = dict(trained.special_tokens)
        tokenizer = add_chat_tokens(Tokenizer(vocab, trained.merges, special, pattern, whole))
        peer = peer_of(folder, tokenizer)
        checked = [*HARD, *(f"a{word} {word}{word}b" for word in words)]
        checked += [piece for path in texts for piece in pieces(path.read_text("utf-8", "replace"))]
        different = [text for text in checked if peer.tokenize(text) != tokenizer.encode(text)]
        shown = f"{len(different)} of {len(checked)} texts differ ({sum(map(len, checked)):,} characters)"
        data = {"different": [text[:80] for text in different[:10]]}
        yield Row(name, len(different), shown, must=0, at_most=True, data=data)


def peer_of(folder: Path, tokenizer: Tokenizer) -> LlamaCpp:
    """llama.cpp with this tokenizer and the smallest model."""
    config = ModelConfig(tokenizer.vocab_size, 64, d_model=32, num_layers=1, num_heads=1, d_ff=32)
    return opened(folder, TransformerLM(config), tokenizer)


def code_points(folder: Path, pattern: str) -> Row:
    """How many code points are split differently. Merges join every byte with what it is next to, so that splits show."""
    every = [bytes([i]) for i in range(256)]
    beside = [bytes([c]) for c in b"a1! \n'"]
    pairs = [pair for one in every for c in beside for pair in ((c, one), (one, c))]
    pairs += [(last, first) for first in every[0xC2:0xF5] for last in every[0x80:0xC0]]
    pairs = list(dict.fromkeys(pairs))
    vocab = dict(enumerate([*every, *dict.fromkeys(a + b for a, b in pairs)]))
    tokenizer = Tokenizer(vocab, pairs, ["<|endoftext|>"], pattern)
    peer = peer_of(folder, tokenizer)

    lengths, found = tokenizer.token_lengths(), []
    points = [i for i in POINTS if not 0xD800 <= i < 0xE000]
    for first in range(0, len(points), 2000):
        some = points[first : first + 2000]
        texts = ["".join(text.replace("c", chr(point)) for text in AROUND) for point in some]
        # Both sides encode the same bytes: where their tokens end differently, a code point is split differently.
        ends = np.cumsum([len(text.encode()) for text in texts])
        text = "".join(texts)
        ours, theirs = (lengths[ids].cumsum() for ids in (tokenizer.encode(text), peer.tokenize(text)))
        assert ours[-1] == theirs[-1] == ends[-1]
        found += [some[i] for i in np.unique(ends.searchsorted(np.setxor1d(ours, theirs)))]
    runs = itertools.groupby(enumerate(found), lambda item: item[1] - item[0])
    spans = [[point for _, point in group] for _, group in runs]
    listed = ", ".join(f"U+{s[0]:04X}" + f"-{s[-1]:04X}" * (len(s) > 1) for s in spans[:20])
    shown = f"{len(found):,} of {len(points):,} code points differ{': ' * bool(found)}{listed}"
    return Row(f"code points, {pattern}", len(found), shown, data={"spans": [[s[0], s[-1]] for s in spans]})


def chat_rows(folder: Path, run: Path) -> Iterator[Row]:
    model, tokenizer, config = load_run(run)
    assert tokenizer is not None
    peer = opened(folder, model, tokenizer)
    rng = random.Random(0)
    parts = [
        "",
        " ",
        "\n",
        "What is",
        " the capital of",
        "France?\n\n",
        "  a",
        "'",
        '"',
        "\\",
        "{{ x }}",
        "é日🙂",
        "<|",
        "|>",
    ]
    renders = answers = different = 0
    for number in range(200):
        turns = [Message("system", "Be kind.")] * rng.randrange(2)
        for i in range(rng.randrange(1, 6, 2)):
            turns.append(
                Message(("user", "assistant")[i % 2], "".join(rng.choices(parts, k=rng.randrange(1, 6))))
            )
        messages, prompt = [turn._asdict() for turn in turns], render_prompt(turns, tokenizer)
        rendered = peer.render(messages)
        renders += peer.tokenize(rendered) != prompt
        if number < 50 and len(prompt) < config.context_length - 64:
            answers += 1
            theirs = peer.chat(messages, 64)
            ends = ending_ids(tokenizer)
            ours = model.generate(prompt, 64, temperature=0.0, stop_ids=ends)
            different += [token for token in theirs if token not in ends] != ours
    yield Row("chat, template", renders, f"{renders} of 200 conversations differ", must=0, at_most=True)
    yield Row(
        "chat, answers", different, f"{different} of {answers} greedy answers differ", must=0, at_most=True
    )


def rows(arguments) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = arguments.only or PARTS
        if "shapes" in wanted:
            yield from shape_rows(folder)
        if "trained" in wanted and arguments.base is not None:
            yield from trained_rows(folder, arguments.base)
        if "tokenizers" in wanted:
            yield from tokenizer_rows(folder, arguments.texts)
        if "code-points" in wanted:
            yield from (
                code_points(folder, pattern) for pattern in dict.fromkeys(name for name, _ in PRE_TOKENIZERS)
            )
        if "chat" in wanted and arguments.chat is not None:
            yield from chat_rows(folder, arguments.chat)


PARTS = ("shapes", "trained", "tokenizers", "code-points", "chat")


def main() -> None:
    parser = parser_of("llama_cpp_parity", __doc__ or "", PARTS)
    parser.add_argument("--base", type=Path, metavar="RUN", help="a trained run with gpt2 or cl100k split")
    parser.add_argument("--chat", type=Path, metavar="RUN", help="a run of lmfast sft")
    parser.add_argument("--texts", type=Path, nargs="+", default=[], metavar="FILE", help="real text")
    arguments = parser.parse_args()
    sys.exit(measure("llama_cpp_parity", rows(arguments), arguments.output, llama_cpp=version("xllamacpp")))


if __name__ == "__main__":
    main()
