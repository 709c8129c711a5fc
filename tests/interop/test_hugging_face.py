"""Exported folders, loaded by transformers: logits, greedy ids, tokenizer, files."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lmfast.errors import UserError
from lmfast.interop.chat_template import chat_template
from lmfast.interop.hugging_face import MAX_SHARD_SIZE, split_weights, write_folder
from tests.interop.models import BOUND, SMALL, random_model, relative_difference, tokenizer

transformers = pytest.importorskip("transformers")

CASES = {
    "llama": {},
    "one key/value head, tied": {"num_kv_heads": 1, "tie_embeddings": True},
    "wide heads, no groups": {"num_heads": 2, "num_kv_heads": None},
    "qwen3": {"qk_norm": True, "tie_embeddings": True},
    "qwen3 with windows": {"qk_norm": True, "sliding_window": 8, "window_pattern": "SL"},
    "qwen2 with windows": {"qkv_bias": True, "sliding_window": 8, "window_pattern": "SSL"},
    "qwen2, heads wider than d_model": {"qkv_bias": True, "head_dim": 12, "norm_eps": 1e-3},
    "llama 3": {"rope_factor": 4.0, "rope_original_context": 32, "rope_theta": 500.0, "head_dim": 20},
    "a window that covers the context": {"sliding_window": 64},
}


def exported(tmp_path, config, dtype="fp32", max_shard_size=MAX_SHARD_SIZE, tokens=None):
    model = random_model(config)
    write_folder(tmp_path, model, tokens, dtype, max_shard_size)
    return model


def greedy(theirs, ids, new):
    return theirs.generate(
        torch.tensor([ids]), max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
    )[0, len(ids) :].tolist()


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_logits_and_greedy_ids_are_those_of_transformers(changes, tmp_path):
    model = exported(tmp_path, replace(SMALL, **changes))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float32
    ids = torch.randint(0, 270, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative_difference(theirs(ids).logits, model(ids)) < BOUND
    assert model.generate([5, 6, 7], 40, temperature=0) == greedy(theirs, [5, 6, 7], 40)


def test_shards_have_an_index_and_hold_the_same_tensors(tmp_path):
    model = exported(tmp_path, SMALL, max_shard_size=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {name: load_file(tmp_path / name) for name in set(index["weight_map"].values())}
    assert len(files) > 3 and not (tmp_path / "model.safetensors").exists()
    assert all(sum(t.numel() * 4 for t in tensors.values()) <= 35_000 for tensors in files.values())
    found = {name: files[file][name] for name, file in index["weight_map"].items()}
    expected = split_weights(model)
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in found.values())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(theirs.lm_head.weight, model.head.weight)


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_dtypes(dtype, kind, tmp_path):
    model = exported(tmp_path, SMALL, dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == kind and torch.equal(theirs.lm_head.weight, model.head.weight.to(kind))


def test_weights_beyond_fp16_are_rejected(tmp_path):
    model = random_model(SMALL)
    with torch.no_grad():
        model.head.weight[0, 0] = 1e5
    with pytest.raises(
        UserError, match=r"^lm_head.weight contains values beyond the range of fp16; export it in"
    ):
        write_folder(tmp_path, model, None, "fp16", MAX_SHARD_SIZE)


def test_a_tied_head_is_not_stored(tmp_path):
    exported(tmp_path, replace(SMALL, tie_embeddings=True))
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


TEXT = "hello ab the\n\n  world é 12345 it's <|user|><|endoftext|>"


@pytest.mark.parametrize("chat", [False, True])
def test_the_tokenizer_gives_the_same_ids(chat, tmp_path):
    tokens = tokenizer(*(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"] if chat else []))
    model = random_model(SMALL)
    model.restrict_to(tokens.vocab)
    write_folder(tmp_path, model, tokens, "fp32", MAX_SHARD_SIZE)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == tokens.encode(TEXT)
    assert theirs.decode(tokens.encode(TEXT)) == TEXT
    assert (theirs.bos_token_id, theirs.eos_token_id) == (258, 262 if chat else 258)
    assert theirs.chat_template == chat_template(tokens)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert generation.eos_token_id == ([258, 262] if chat else 258)
    assert generation.suppress_tokens == list(range(263 if chat else 259, 270))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_embeddings": True}, "value_embeddings is true, which"),
        ({"logit_softcap": 15.0}, "logit_softcap is 15.0, which .* only models with logit_softcap not set"),
        ({"parallel_block": True}, "parallel_block is true, which"),
        ({"norm": "post"}, "norm is post, which .* only models with norm pre"),
        ({"norm": "none"}, "norm is none, which"),
        ({"position": "none"}, "position is none, which"),
        ({"position": "learned"}, "position is learned, which"),
        ({"position": "sinusoidal"}, "position is sinusoidal, which"),
        ({"ffn": "relu2"}, "ffn is relu2, which"),
        ({"ffn": "silu"}, "ffn is silu, which"),
        ({"num_experts": 4}, "num_experts is 4, which .* only models with num_experts 0"),
        ({"qkv_bias": True, "qk_norm": True}, "qkv_bias is true and qk_norm too"),
        (
            {"num_heads": 3, "num_kv_heads": 1, "head_dim": 16},
            "d_model 32 is not divisible by num_heads 3, as",
        ),
        ({"sliding_window": 8}, "sliding_window is 8, which Hugging Face's Llama does not support"),
    ],
)
def test_settings_without_a_counterpart_are_rejected_by_name(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        exported(tmp_path, replace(SMALL, **changes))
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_transformers_would_replace_is_rejected(tmp_path):
    with pytest.raises(
        UserError, match="qkv_bias is true, and for such models transformers splits text with Qwen2's"
    ):
        exported(tmp_path, replace(SMALL, qkv_bias=True), tokens=tokenizer())
    assert not list(tmp_path.iterdir())
