"""Compares models with transformers in both directions: `python -m bench.hugging_face_parity`.

Random models with biases, norm weights other than 1 and two outlier channels, of every family, with heads of several
sizes. Rows: the largest difference of a logit in fp32, relative to the largest logit; WRONG if one of 200 greedy ids
differs, or a tensor after the way back (export → import, import → export) by a bit. With --memory instead the peak memory
of exports and imports of a random model of SmolLM's 135M shape (minutes).

Out: the table, and bench/results/hugging_face_parity_<cpu>.json, with --memory hugging_face_memory_<cpu>.json.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from bench import machine, process
from bench.generation_table import SMOLLM
from bench.results import Row
from bench.target_table import attempt, measure, parser_of
from lmfast import ModelConfig, TransformerLM, export_run, import_model, load_run
from lmfast.model.accounting import num_parameters
from tests.interop.models import BOUND, make_run, perturb, relative_difference

NEW = 200  # greedy ids
PROMPT = [5, 6, 7]
SHAPE = ModelConfig(512, 256, d_model=256, num_layers=4, num_heads=4, d_ff=704)
LLAMA3 = {"rope_factor": 8.0, "rope_original_context": 64, "rope_theta": 5e5}
EXPORTS = {
    "Llama, head_dim 64": {},
    "Llama, head_dim 64, GQA, tied": {"num_kv_heads": 2, "tie_embeddings": True},
    "Llama, head_dim 16, GQA": {"num_heads": 16, "num_kv_heads": 4},
    "Llama, head_dim 128, one kv head, tied": {"num_heads": 2, "num_kv_heads": 1, "tie_embeddings": True},
    "Llama, head_dim 80 apart from d_model": {"head_dim": 80, "num_kv_heads": 2},
    "Llama 3's RoPE": LLAMA3,
    "Qwen2 (qkv_bias), GQA": {"qkv_bias": True, "num_kv_heads": 2},
    "Qwen3 (qk_norm), GQA, tied": {"qk_norm": True, "num_kv_heads": 2, "tie_embeddings": True},
    "Qwen3 (qk_norm), windows of 32": {"qk_norm": True, "sliding_window": 32, "window_pattern": "SSL"},
}
THEIR_SHAPE = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
THEIR_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
WINDOWS = {
    "use_sliding_window": True, "sliding_window": 32, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]
}  # fmt: skip
IMPORTS = {
    "Llama, GQA": ("Llama", {}),
    "Llama 3, head_dim 128": ("Llama", {"rope_parameters": THEIR_LLAMA3, "head_dim": 128}),
    "SmolLM, tied": ("Llama", {"num_attention_heads": 8, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "Mistral, head_dim 80, one kv head": ("Mistral", {"head_dim": 80, "num_key_value_heads": 1}),
    "Qwen2": ("Qwen2", {}),
    "Qwen2, tied, windows of 32": ("Qwen2", {"tie_word_embeddings": True, **WINDOWS}),
    "Qwen3, head_dim 128": ("Qwen3", {"head_dim": 128, "num_key_value_heads": 4}),
    "Qwen3, tied, windows of 32": ("Qwen3", {"head_dim": 64, "tie_word_embeddings": True, **WINDOWS}),
}
MOST_COPIES = 1.2
COMMANDS = {
    "export, fp32": "export run --format hf --output fp32",
    "export, bf16": "export run --format hf --dtype bf16 --output bf16",
    "export, bf16 in files of 100 MB": "export run --format hf --dtype bf16 --max-shard-size 100MB --output sharded",
    "import, fp32": "import fp32 --tokenizer none --output again",
    "import, bf16": "import bf16 --tokenizer none --output again16",
    "import, bf16 in files of 100 MB": "import sharded --tokenizer none --output again_sharded",
}


@torch.no_grad()
def spread(model: torch.nn.Module) -> None:
    """Enlarges the matrices of a transformers model, whose standard deviation is 0.02."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.mul_(3)


def exported(changes: dict, place: Path) -> Row:
    torch.manual_seed(0)
    ours = TransformerLM(replace(SHAPE, **changes)).eval()
    perturb(ours)
    folder = export_run(make_run(place / "run", ours, None), output=place / "folder")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    again, _, _ = load_run(import_model(folder, output=place / "again", tokenizer="none"))
    return compared(ours, theirs, ours.named_weights(), again.named_weights())


def imported(family: str, changes: dict, place: Path) -> Row:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**THEIR_SHAPE | changes)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    spread(theirs)
    perturb(theirs)
    theirs.save_pretrained(place / "folder")
    ours, _, _ = load_run(import_model(place / "folder", output=place / "run", tokenizer="none"))
    again = export_run(place / "run", output=place / "again")
    return compared(
        ours, theirs, load_file(place / "folder/model.safetensors"), load_file(again / "model.safetensors")
    )


@torch.no_grad()
def compared(ours: TransformerLM, theirs, before: dict, after: dict) -> Row:
    """The row of two models, and of the tensors before and after the way back."""
    ids = torch.randint(0, ours.config.vocab_size, (2, ours.config.context_length))
    difference = relative_difference(theirs(ids).logits, ours(ids))
    greedy = {
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    new = theirs.generate(torch.tensor([PROMPT]), **greedy)[0, len(PROMPT) :].tolist()
    same_ids = ours.generate(PROMPT, NEW, temperature=0) == new
    same_bits = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    wrong = ", ".join(
        ["greedy ids differ"] * (not same_ids) + ["tensors differ on the way back"] * (not same_bits)
    )
    shown = f"{difference:.1e} of the largest logit; {NEW} greedy ids and all tensors on the way back equal"
    data = {
        "class": type(theirs).__name__,
        "head_dim": ours.config.head_dim,
        "parameters": sum(map(torch.numel, ours.parameters())),
    }
    return Row("", difference, shown, BOUND, at_most=True, wrong=wrong, data=data)


def rows() -> Iterator[Row]:
    cases: list[tuple[str, Callable[[Path], Row]]] = [
        *((f"export {name}", partial(exported, changes)) for name, changes in EXPORTS.items()),
        *((f"import {name}", partial(imported, *case)) for name, case in IMPORTS.items()),
    ]
    for name, make in cases:
        with tempfile.TemporaryDirectory() as place:
            yield replace(attempt(name, partial(make, Path(place))), name=name)


def memory_rows() -> Iterator[Row]:
    """Peak memory of each command without mapped files, less that for a tiny model, in copies of the weights in fp32."""
    with tempfile.TemporaryDirectory() as place:
        tiny, large = (peaks(config, Path(place, name)) for name, config in (("a", SHAPE), ("b", SMOLLM)))
    copy = 4 * num_parameters(SMOLLM)
    for name in COMMANDS:
        copies = (large[name] - tiny[name]) / copy
        shown = f"{copies:.2f} copies of the weights in fp32, {large[name] / 1e6:.0f} MB in all"
        yield Row(name, copies, shown, MOST_COPIES, at_most=True, data={"copy": copy, "peak": large[name]})


def peaks(config: ModelConfig, place: Path) -> dict[str, int]:
    """{command: the largest number of bytes it held}."""
    place.mkdir()
    make_run(place / "run", TransformerLM(config), None)
    environment = os.environ | {"PYTHONPATH": machine.import_path(machine.ROOT)}
    return {
        name: process.run([sys.executable, "-m", "lmfast", *words.split()], place, environment).peak_bytes
        for name, words in COMMANDS.items()
    }


def main() -> None:
    parser = parser_of("hugging_face_parity", __doc__)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    table, chosen = ("hugging_face_memory", memory_rows) if options.memory else ("hugging_face_parity", rows)
    sys.exit(measure(table, chosen(), options.output, transformers=transformers.__version__))


if __name__ == "__main__":
    main()
