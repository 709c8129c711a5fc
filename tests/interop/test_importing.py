"""Folders that transformers wrote, imported: logits and greedy ids of every family, and what is rejected."""

import json
import os
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmfast import export_run, import_model, load_run
from lmfast.errors import UserError
from lmfast.interop.hugging_face_config import from_config_json
from tests.interop.models import (
    BOUND,
    SMALL,
    make_run,
    perturb,
    random_model,
    relative_difference,
    tokenizer,
    tokenizer_for,
)

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 270, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES = {
    "llama": ("Llama", {}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 16}),
    "smollm": ("Llama", {"num_attention_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "mistral": ("Mistral", {"head_dim": 12, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 with windows": (
        "Qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 24, "num_key_value_heads": 4}),
}


def build(family, changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE | changes)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():  # standard deviations of 0.02 would give logits near 0
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(10)
    perturb(model)
    return model


def saved(folder, model, max_shard_size="5GB"):
    """`model` in a folder, with a tokenizer."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer().save(folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize(("family", "changes"), FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family_computes_what_transformers_computes(family, changes, tmp_path):
    theirs = build(family, changes)
    folder, expected_tokenizer = saved(tmp_path / "folder", theirs), tokenizer_for(family == "Qwen2")
    expected_tokenizer.save(folder / "tokenizer.json")
    run = import_model(folder, output=tmp_path / "run")
    model, own, _ = load_run(run)
    ids = torch.randint(0, 270, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative_difference(theirs(ids).logits, model(ids)) < BOUND
    model.unused_ids = None
    new = theirs.generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=40, min_new_tokens=40, do_sample=False, eos_token_id=None
    )
    assert model.generate([5, 6, 7], 40, temperature=0) == new[0, 3:].tolist()
    assert own.fingerprint() == expected_tokenizer.fingerprint()
    # Exported again, the tensors are the same.
    again = export_run(run, output=tmp_path / "again")
    found, expected = (load_file(path / "model.safetensors") for path in (again, tmp_path / "folder"))
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)


@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm": True, "tie_embeddings": True}, {"qkv_bias": True}], ids=str
)
def test_an_exported_run_is_imported_to_the_bit(changes, tmp_path):
    model = random_model(replace(SMALL, **changes))
    expected = tokenizer_for(model.config.qkv_bias)
    run = make_run(tmp_path / "run", model, expected)
    folder = export_run(run, output=tmp_path / "folder", max_shard_size=20_000)
    again, own, config = load_run(import_model(folder, output=tmp_path / "again"))
    assert config == model.config and own.fingerprint() == expected.fingerprint()
    text = "don't 12345 e\u0301\n\n a"
    assert transformers.AutoTokenizer.from_pretrained(folder)(text).input_ids == own.encode(text)
    ours = model.named_weights()
    assert all(torch.equal(weight, ours[name]) for name, weight in again.named_weights().items())


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("llama") / "folder", build("Llama", {}), max_shard_size="20KB")


@pytest.fixture
def folder(llama, tmp_path):
    """A copy of a sharded Llama folder."""
    new = tmp_path / "folder"
    new.mkdir()
    for path in llama.iterdir():
        (new / path.name).write_bytes(path.read_bytes())
    return new


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensor(folder, name, change):
    """Applies change({name: tensor}) to the file that contains `name`."""
    file = folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def rejected(folder, message, **options):
    before = sorted(os.listdir(folder.parent))
    with pytest.raises(UserError, match=message) as found:
        import_model(folder, output=folder.parent / "new/run", **options)
    assert "\n" not in str(found.value) and sorted(os.listdir(folder.parent)) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "config.json: the architecture GPT2LMHeadModel is not supported",
        ),
        ({"architectures": None}, "config.json: the architecture None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu, which is not supported; only silu is"),
        ({"attention_bias": True}, "attention_bias is true, which is not supported; only false is"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .*; only not set is"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
            "rope_parameters .*yarn.* is not supported",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": None}},
            r"rope_parameters\.factor is not set; expected a number",
        ),
        ({"hidden_size": "32"}, "hidden_size is 32; expected a whole number"),
        (
            {"num_key_value_heads": 3},
            "json: num_attention_heads 4 is not divisible by num_key_value_heads 3; use a divisor of num_attention_heads",
        ),
        ({"hidden_size": 0}, "config.json: hidden_size is 0; it must be greater than 0"),
        ({"head_dim": 7}, "config.json: head_dim is 7, which is not supported; only even ones are"),
        ({"intermediate_size": 40}, r"gate_proj.weight is \(48, 32\), but config.json implies \(40, 32\)"),
        ({"num_hidden_layers": 3}, "folder: lacks model.layers.2.* which its config.json implies"),
        ({"num_hidden_layers": 1}, "model.layers.1.* is not a tensor of the architecture"),
        (
            {"tie_word_embeddings": True},
            r"lm_head.weight \(F32\) differs from model.embed_tokens.weight \(F32\), but config.json sets",
        ),
        ({"vocab_size": 200}, "the tokenizer has ids up to 258, but the model's vocab_size is 200"),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 16},
            "sliding_window is 16 in the last layer, .* give --context-length 16",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_a_config_that_does_not_fit_is_rejected(changes, message, folder):
    change_config(folder, **changes)
    rejected(folder, message)


def test_a_window_does_not_matter_within_a_shorter_context(folder):
    change_config(folder, architectures=["MistralForCausalLM"], sliding_window=16)
    _, _, config = load_run(import_model(folder, output=folder.parent / "run", context_length=16))
    assert (config.context_length, config.sliding_window) == (16, None)
    rejected(folder, "max_position_embeddings is 64, less than --context-length 65", context_length=65)


NULLS = (
    "head_dim rope_scaling rope_theta sliding_window layer_types partial_rotary_factor tie_word_embeddings attention_bias "
    "mlp_bias rms_norm_eps hidden_act use_sliding_window quantization_config"
).split()


def test_a_null_counts_as_absent(folder):
    """But for the two keys whose null has a meaning of its own in transformers."""
    path = folder / "config.json"
    document = json.loads(path.read_text()) | {
        "architectures": ["MistralForCausalLM"],
        "num_key_value_heads": 4,
    }
    document = {name: value for name, value in document.items() if name not in NULLS}
    document |= {"max_position_embeddings": 8192, "rope_parameters": {"rope_theta": 7.0, "factor": None}}
    with_nulls = from_config_json(document | dict.fromkeys(NULLS), path)
    assert from_config_json(document | {"sliding_window": 8192}, path) == with_nulls
    assert (with_nulls.sliding_window, with_nulls.rope_theta, with_nulls.norm_eps) == (None, 7.0, 1e-6)
    with pytest.raises(UserError, match="sliding_window is 4096 in the last layer"):
        from_config_json(document, path)
    del document["num_key_value_heads"]
    document |= {"max_position_embeddings": 64, "num_attention_heads": 16}
    for kv, expected in (({}, 8), ({"num_key_value_heads": None}, 16)):
        assert from_config_json(document | kv, path).num_kv_heads == expected


def test_what_transformers_4_writes(folder):
    """rope_scaling and rope_theta instead of rope_parameters; computed tensors; a tied head that is stored."""
    document = json.loads((folder / "config.json").read_text())
    del document["rope_parameters"]
    document |= {"rope_theta": 7.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}}
    (folder / "config.json").write_text(json.dumps(document | {"tie_word_embeddings": True}))
    change_tensor(
        folder, "model.norm.weight", lambda t: t.update({"model.rotary_emb.inv_freq": torch.ones(4)})
    )
    embedding = load_embedding(folder)
    change_tensor(folder, "lm_head.weight", lambda t: t.update({"lm_head.weight": embedding.double()}))
    model, _, config = load_run(import_model(folder, output=folder.parent / "run"))
    assert (config.rope_theta, config.rope_factor, config.rope_original_context) == (7.0, 4.0, 32)
    assert torch.equal(model.head.weight, embedding)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
            "is not supported; only default and llama3",
        ),
        ({"rope_scaling": {"factor": 2.0}}, "is not supported; only default and llama3"),
        ({"vocab_size": 10**30}, "vocab_size is 1000000000.*, which is too large"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf, which is too large"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000000000.*, which is too large"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, more than 10000"),
    ],
)
def test_numbers_and_scalings_that_no_model_has(folder, changes, message):
    """transformers prefers rope_scaling to rope_parameters."""
    change_config(folder, **changes)
    rejected(folder, message)


def test_layer_types_of_another_kind(folder):
    change_config(
        folder, architectures=["Qwen3ForCausalLM"], use_sliding_window=True, layer_types=[["a"], {}]
    )
    rejected(folder, "layer_types .* is not supported")


def load_embedding(folder):
    found = {}
    change_tensor(folder, "model.embed_tokens.weight", found.update)
    return found["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks model.norm.weight, which .*index.json lists there"),
        (
            lambda t: t.update({"model.extra": torch.ones(1)}),
            "model.extra is not a tensor of the architecture",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(31)}), r"model.norm.weight is \(31,\), but"),
        (
            lambda t: t["model.norm.weight"].fill_(torch.nan),
            "model.norm.weight contains values that are not finite",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(32).int()}),
            "model.norm.weight is stored as I32; only",
        ),
    ],
    ids=["missing", "extra", "shape", "not a number", "dtype"],
)
def test_tensors_that_do_not_fit_are_rejected(change, message, folder):
    change_tensor(folder, "model.norm.weight", change)
    rejected(folder, r"model-\d.*safetensors: " + message)


def test_damaged_folders_are_rejected(folder):
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    rejected(folder, f"{shard.name}: is damaged or incomplete")
    shard.unlink()
    rejected(folder, f"{shard.name}: is missing")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a"}}')
    rejected(folder, "index.json: is not an index of safetensors files in this folder")
    (folder / "model.safetensors.index.json").unlink()
    rejected(folder, "folder: contains neither model.safetensors nor")
    (folder / "pytorch_model.bin").write_bytes(b"")
    rejected(folder, r"contains only pickled weights \(pytorch_model.bin\), which can run code")
    (folder / "config.json").write_text("[]")
    rejected(folder, "config.json: is not a JSON object")
    (folder / "config.json").unlink()
    rejected(folder, "folder: contains no config.json")
    rejected(
        folder / "absent", "absent: no such folder; give a folder in Hugging Face's format, as `hf download"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model-00001-of-00006.safetensors"])
def test_a_pipe_does_not_block(name, folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    rejected(folder, f"{name}: is not a regular file; download it again")


def test_the_tokenizer_may_be_another_or_none(folder, tmp_path):
    (folder / "tokenizer.json").unlink()
    rejected(folder, re.escape("contains no tokenizer") + ".*; or give another with --tokenizer")
    _, own, _ = load_run(import_model(folder, output=tmp_path / "without", tokenizer="none"))
    assert own is None
    tokenizer("<|user|>").save(tmp_path / "other")
    _, own, _ = load_run(import_model(folder, output=tmp_path / "with", tokenizer=tmp_path / "other"))
    assert own is not None and "<|user|>" in own.special_tokens


def test_an_existing_output_and_the_input_are_kept(folder, tmp_path):
    with pytest.raises(UserError, match=r"folder: is in the input, .*folder; choose another --output"):
        import_model(folder, output=folder)
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run: already exists; remove it, or choose another --output"):
        import_model(folder, output=tmp_path / "run")
    assert (folder / "config.json").exists()
