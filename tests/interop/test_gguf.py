"""Files are read back with the gguf package; bench/llama_cpp_parity.py compares with llama.cpp itself."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmfast import Tokenizer
from lmfast.data.chat import add_chat_tokens
from lmfast.errors import UserError
from lmfast.interop.chat_template import chat_template
from lmfast.interop.gguf import write_gguf
from lmfast.tokenizer.text_rules import Flags, TextRules
from tests.interop.models import BOUND, SMALL, random_model, relative_difference, tokenizer

gguf = pytest.importorskip("gguf")


def read(path):
    """(metadata, {name: float32 array}, {name: type}) of a file."""
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return metadata, tensors, {t.name: t.tensor_type.name for t in reader.tensors}


def written(path, model, own_tokenizer=None, quantize="f32"):
    write_gguf(path / "model.gguf", model, own_tokenizer or tokenizer(), quantize)
    return read(path / "model.gguf")


def logits(metadata, tensors, ids: list[int]) -> np.ndarray:
    """What llama.cpp computes from a file of architecture llama or qwen3 (its src/models), in plain NumPy."""
    arch = metadata["general.architecture"]
    facts = {
        name.removeprefix(f"{arch}."): value for name, value in metadata.items() if name.startswith(arch)
    }
    heads, kv_heads = facts["attention.head_count"], facts["attention.head_count_kv"]
    head_dim, eps = facts["attention.key_length"], facts["attention.layer_norm_rms_epsilon"]
    frequencies = facts["rope.freq_base"] ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(len(ids))[:, None] * frequencies / tensors.get("rope_freqs.weight", 1.0)

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * tensors[f"{name}.weight"]

    def rotate(x):  # (heads, seq, head_dim): llama's pairs are adjacent, qwen3's half a head apart
        pairs = x.reshape(*x.shape[:-1], *((2, -1) if arch == "qwen3" else (-1, 2)))
        first, second = np.moveaxis(pairs, -2 if arch == "qwen3" else -1, 0)
        turned = (
            first * np.cos(angles) - second * np.sin(angles),
            second * np.cos(angles) + first * np.sin(angles),
        )
        return np.stack(turned, -2 if arch == "qwen3" else -1).reshape(x.shape)

    x = tensors["token_embd.weight"][ids]
    for i in range(facts["block_count"]):
        y = norm(x, f"blk.{i}.attn_norm")
        q, k, v = (
            (y @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0))
            .reshape(len(ids), -1, head_dim)
            .transpose(1, 0, 2)
            for name in (f"blk.{i}.attn_{part}" for part in "qkv")
        )
        if arch == "qwen3":
            q, k = norm(q, f"blk.{i}.attn_q_norm"), norm(k, f"blk.{i}.attn_k_norm")
        q, k, v = rotate(q), rotate(k).repeat(heads // kv_heads, 0), v.repeat(heads // kv_heads, 0)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(head_dim)
        scores = np.exp(np.where(np.tri(len(ids)) > 0, scores, -np.inf))
        attended = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + attended.transpose(1, 0, 2).reshape(len(ids), -1) @ tensors[f"blk.{i}.attn_output.weight"].T
        y = norm(x, f"blk.{i}.ffn_norm")
        gate = y @ tensors[f"blk.{i}.ffn_gate.weight"].T
        up = y @ tensors[f"blk.{i}.ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ tensors[f"blk.{i}.ffn_down.weight"].T
    return norm(x, "output_norm") @ tensors.get("output.weight", tensors["token_embd.weight"]).T


IDS = [258, *b"once upon", 257, 3, 256, 0]


def difference(model, metadata, tensors) -> float:
    with torch.no_grad():
        ours = model(torch.tensor([IDS]))[0, :, : metadata[f"{metadata['general.architecture']}.vocab_size"]]
    return relative_difference(torch.from_numpy(logits(metadata, tensors, IDS)), ours)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tie_embeddings": True},
        {"num_kv_heads": 4, "norm_eps": 0.1},
        {"num_kv_heads": 1, "num_heads": 2, "rope_theta": 100.0},
        {"head_dim": 12},
        {"qkv_bias": True},
        {"rope_factor": 8.0, "rope_original_context": 16},
        {"qk_norm": True, "qkv_bias": True, "head_dim": 16, "norm_eps": 0.1},
    ],
)
def test_the_file_computes_our_logits(tmp_path, change):
    model = random_model(replace(SMALL, **change))
    metadata, tensors, types = written(tmp_path, model)
    assert difference(model, metadata, tensors) < BOUND
    assert metadata["general.architecture"] == ("qwen3" if "qk_norm" in change else "llama")
    assert ("output.weight" in tensors) == ("tie_embeddings" not in change) and set(types.values()) == {"F32"}


@pytest.mark.parametrize(("quantize", "bound"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 3e-2)])
def test_quantized_matrices(tmp_path, quantize, bound):
    model = random_model(replace(SMALL, d_ff=64))
    metadata, tensors, types = written(tmp_path, model, quantize=quantize)
    assert 1e-5 < difference(model, metadata, tensors) < bound
    kind = metadata["general.file_type"]
    assert gguf.LlamaFileType(kind).name == f"MOSTLY_{quantize.upper()}"
    assert {name: kind for name, kind in types.items() if kind != quantize.upper()} == {
        name: "F32" for name, values in tensors.items() if values.ndim == 1
    }


def test_rows_that_do_not_fill_blocks_of_32_are_float16(tmp_path):
    _, _, types = written(tmp_path, random_model(SMALL), quantize="q8_0")
    assert types["blk.0.ffn_down.weight"] == "F16" and types["blk.0.ffn_up.weight"] == "Q8_0"


def test_vocabulary(tmp_path):
    own = tokenizer("<|extra|>")
    metadata, _, _ = written(tmp_path, random_model(SMALL), own)
    found = {
        name.removeprefix("tokenizer.ggml."): v for name, v in metadata.items() if "tokenizer.ggml" in name
    }
    assert {name: v for name, v in found.items() if name not in ("tokens", "token_type")} == {
        "model": "gpt2",
        "pre": "gpt-2",
        "merges": ["a b", "Ġ t"],
        "bos_token_id": 258,
        "eos_token_id": 258,
        "add_bos_token": False,
    }
    assert found["tokens"][:2] == ["Ā", "ā"]
    assert found["tokens"][255:] == ["ÿ", "ab", "Ġt", "<|endoftext|>", "<|extra|>"]
    assert found["token_type"] == [gguf.TokenType.NORMAL] * 258 + [gguf.TokenType.CONTROL] * 2
    assert "tokenizer.chat_template" not in metadata


def test_a_chat_model_has_its_template_and_end(tmp_path):
    own = add_chat_tokens(tokenizer())
    metadata, _, _ = written(tmp_path, random_model(SMALL), own)
    assert metadata["tokenizer.chat_template"] == chat_template(own)
    assert metadata["tokenizer.ggml.eot_token_id"] == own.special_tokens["<|end|>"]


def test_the_file_ends_with_the_tokenizers_last_id(tmp_path):
    metadata, tensors, _ = written(tmp_path, random_model(SMALL))
    assert SMALL.vocab_size == 270 and len(metadata["tokenizer.ggml.tokens"]) == 259
    assert {len(tensors["token_embd.weight"]), len(tensors["output.weight"])} == {259}


def test_unused_ids_are_suppressed(tmp_path):
    own = tokenizer().with_ids(tokenizer().vocab, {"<|endoftext|>": 258, "<|last|>": 262})
    metadata, _, _ = written(tmp_path, random_model(SMALL), own)
    assert metadata["tokenizer.ggml.tokens"][259:] == [
        *(f"[UNUSED_{i}]" for i in (259, 260, 261)),
        "<|last|>",
    ]
    assert metadata["tokenizer.ggml.token_type"][258:] == [3, 5, 5, 5, 3]
    assert metadata["tokenizer.ggml.suppress_tokens"] == [259, 260, 261]


def with_pattern(pattern: str, ignore_merges: bool = False) -> Tokenizer:
    plain = tokenizer()
    vocab, merges, special = plain.vocab, plain.merges, plain.special_tokens
    if ignore_merges:  # changes ids: no merge makes "xyz"
        vocab, special = (
            {i: token for i, token in vocab.items() if i < 258} | {258: b"xyz"},
            ["<|endoftext|>"],
        )
    return Tokenizer(vocab, merges, special, pattern, ignore_merges)


@pytest.mark.parametrize(
    ("pattern", "whole", "name"),
    [("gpt2", False, "gpt-2"), ("cl100k", False, "dbrx"), ("cl100k", True, "llama-bpe")],
)
def test_pre_tokenizers(tmp_path, pattern, whole, name):
    metadata, _, _ = written(tmp_path, random_model(SMALL), with_pattern(pattern, whole))
    assert metadata["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize(
    ("pattern", "whole", "reason"),
    [
        ("o200k", False, "no split equal to pattern o200k; only tokenizers with pattern cl100k or gpt2"),
        ("gpt2", True, "no split equal to pattern gpt2 with ignore_merges; only"),
        (r"\s+|\S+", False, r"no split equal to pattern '\\\\s\+|\\\\S\+'; only"),
    ],
)
def test_patterns_that_llama_cpp_lacks_are_rejected(tmp_path, pattern, whole, reason):
    with pytest.raises(UserError, match=reason):
        written(tmp_path, random_model(SMALL), with_pattern(pattern, whole))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (TextRules(nfc=True), "llama.cpp does not do NFC"),
        (TextRules(prefix_space=True), "llama.cpp does not do a prefix space"),
        (
            TextRules(flags={"<|a|>": Flags(lstrip=True)}),
            "llama.cpp does not do lstrip of added token '<|a|>'",
        ),
    ],
)
def test_rules_for_text_that_llama_cpp_lacks_are_rejected(tmp_path, rules, reason):
    plain = tokenizer("<|a|>")
    own = Tokenizer(plain.vocab, plain.merges, plain.special_tokens, rules=rules)
    with pytest.raises(UserError, match=re.escape(reason)):
        written(tmp_path, random_model(replace(SMALL, vocab_size=own.vocab_size)), own)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm": "post"}, "norm is post, which llama.cpp's llama and qwen3 do not support"),
        ({"position": "none"}, "position is none, which"),
        ({"position": "learned"}, "position is learned, which"),
        ({"position": "sinusoidal"}, "position is sinusoidal, which"),
        ({"ffn": "relu2"}, "ffn is relu2, which"),
        ({"num_experts": 4}, "num_experts is 4, which"),
        ({"value_embeddings": True}, "value_embeddings is true, which"),
        ({"logit_softcap": 30.0}, "logit_softcap is 30.0, which"),
        ({"parallel_block": True}, "parallel_block is true, which"),
        ({"sliding_window": 8}, "sliding_window is 8, which"),
        (
            {"rope_factor": 2.0, "qk_norm": True},
            "rope_factor is 2.0, which llama.cpp's qwen3 does not support",
        ),
    ],
)
def test_settings_that_llama_cpp_lacks_are_rejected(tmp_path, change, reason):
    with pytest.raises(UserError, match=reason):
        written(tmp_path, random_model(replace(SMALL, **change)))
    assert not list(tmp_path.iterdir())


def test_a_window_as_long_as_the_context_is_full_attention(tmp_path):
    model = random_model(replace(SMALL, sliding_window=SMALL.context_length))
    metadata, tensors, _ = written(tmp_path, model)
    assert difference(model, metadata, tensors) < BOUND


def test_other_input_that_is_rejected(tmp_path, monkeypatch):
    model = random_model(SMALL)
    for own, reason in (
        (None, "has no tokenizer"),
        (Tokenizer({i: bytes([i]) for i in range(256)}, []), "has no <|endoftext|>, and llama.cpp would"),
        (tokenizer(*map(str, range(1000, 1020))), "the tokenizer has 279 ids and the model only 270"),
        (tokenizer("Ġt"), "ids 257 and 259 would both be 'Ġt'"),
        (tokenizer(" t"), "special token ' t' is also an ordinary token"),
        (tokenizer("\n"), r"special token '\\n' is also an ordinary token"),
    ):
        with pytest.raises(UserError, match=reason.replace("|", r"\|")):
            write_gguf(tmp_path / "model.gguf", model, own, "f32")
    with torch.no_grad():
        model.blocks[1].attention.out.weight[0, 0] = 70_000
    with pytest.raises(
        UserError, match=r"blk.1.attn_output.weight contains values beyond the range of float16"
    ):
        written(tmp_path, model, quantize="f16")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="run `pip install gguf`"):
        written(tmp_path, model)
    assert not list(tmp_path.iterdir())
